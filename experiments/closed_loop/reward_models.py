"""The interface of a run to its reward models, in this process or on a server. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from experiments.closed_loop.records import DIGITS, RetrainRecord
from simulation.optimise import Groups

GROUPS_PER_REQUEST = 8
DECIMALS = 4  # of a score: float noise must not decide what the policy writes


class RewardModels(Protocol):
    """The reward models of one run; `version` is the one that scores."""

    version: str

    def score(self, groups: Groups) -> list[list[float]]:
        """Scores for measurement."""

    def reward(self, groups: Groups, step: int) -> list[list[float]]:
        """Scores of samples of the policy at `step`, which are kept for the next retrain."""

    def retrain(self, options: Mapping[str, Any]) -> RetrainRecord:
        """Retrain on the samples that `reward` has kept since; an accepted candidate becomes `version`."""


def in_requests(groups: Groups, score: Callable[[Groups], Sequence[Sequence[float]]]) -> Iterator[list[float]]:
    """The rounded scores of `groups`, GROUPS_PER_REQUEST groups a request. A request is one batch, so the
    same requests give the same scores in process and on a server."""
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
    """The record of a retrain from the gate's verdict; a figure that the gate could not measure is None."""

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
    """The record of a run without a candidate; its parent continues to score."""
    return retrain_record("", False, [f"failed: {message}"], {}, [])
