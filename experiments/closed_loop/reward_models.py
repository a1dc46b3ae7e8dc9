"""What a run asks of a reward model, wherever it lives. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from experiments.closed_loop.records import DIGITS, RetrainRecord
from simulation.optimise import Groups

GROUPS_PER_REQUEST = 8
DECIMALS = 4  # of a score: what is left of float noise must not decide what the policy writes


class RewardModels(Protocol):
    """The versions of one run; `version` scores."""

    version: str

    def score(self, groups: Groups) -> list[list[float]]:
        """Measured only."""

    def reward(self, groups: Groups, step: int) -> list[list[float]]:
        """Scored as samples of the policy at `step`, and kept for the next retrain."""

    def retrain(self, options: Mapping[str, Any]) -> RetrainRecord:
        """Retrain on what `reward` kept since the last time; `version` moves on where it is accepted."""


def in_requests(groups: Groups, score: Callable[[Groups], Sequence[Sequence[float]]]) -> Iterator[list[float]]:
    """The scores of `groups`, asked for a few groups at a time, rounded. What is asked for together runs
    in one batch: the same requests, whoever answers them, give the same scores."""
    for start in range(0, len(groups), GROUPS_PER_REQUEST):
        for scores in score(groups[start : start + GROUPS_PER_REQUEST]):
            yield [round(value, DECIMALS) for value in scores]


def retrain_record(
    candidate: str,
    accepted: bool,
    reasons: Sequence[str],
    figures: Mapping[str, float | None],
    curve: Sequence[tuple[int, float]],
) -> RetrainRecord:
    """The record of a retrain from the gate's verdict; what the gate could not measure is None."""

    def figure(name: str) -> float | None:
        value = figures.get(name)
        return None if value is None else round(value, DIGITS)

    return RetrainRecord(
        candidate=candidate,
        accepted=accepted,
        reasons=list(reasons),
        parent_accuracy=figure("parent_accuracy"),
        held_out_accuracy=figure("held_out_accuracy"),
        parent_score_std=figure("parent_score_std"),
        score_std=figure("score_std"),
        curve=list(curve),
    )


def failed_retrain(message: str) -> RetrainRecord:
    """The record of a run that came to no candidate; the version before it goes on."""
    return retrain_record("", False, [f"failed: {message}"], {}, [])
