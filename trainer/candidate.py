"""A model as saved and loaded again: what it answers, for the gate, and what its manifest says of it."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import torch

from metarm.errors import TrainingError
from metarm.model import probe
from metarm.model.encoding import Encoded, Encoder
from metarm.model.reward_model import RewardModel
from metarm.records import Preference, SampleGroup
from metarm.store.calibration import IDENTITY, Calibration, fit
from trainer.batches import EncodedPair, encode_groups, encode_pairs
from trainer.figures import PairScores, deviation
from trainer.gate import Answers
from trainer.training import score_pairs

RECENT_GROUPS = 128  # the newest, at most
RECENT_RESPONSES = 4  # of each, at most: more would cost more than they tell
PERCENT = 100


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The texts that a candidate and its parent are compared by, encoded: held-out pairs, and the different
    responses of recent groups."""

    held_out: list[EncodedPair]
    recent: list[list[Encoded]]

    @classmethod
    def of(cls, encoder: Encoder, held_out: Sequence[Preference], groups: Sequence[SampleGroup]) -> Yardstick:
        """`groups` are the newest last. Those that have fewer than two different responses compare nothing."""
        encoded = encode_groups(encoder, groups[-RECENT_GROUPS:])
        different = [list({response.key: response for response in g.responses}.values()) for g in encoded]
        recent = [responses[:RECENT_RESPONSES] for responses in different if len(responses) > 1]
        return cls(encode_pairs(encoder, held_out), recent)

    @property
    def lengths(self) -> list[list[int]]:
        """Tokens of the recent responses, each with its prompt."""
        return [[len(response.ids) for response in responses] for responses in self.recent]

    @torch.inference_mode()
    def answers(self, model: RewardModel) -> Answers:
        """What `model` makes of them: raw rewards."""
        samples = [sample for group in self.recent for sample in group]
        flat = iter(model.scores(samples).tolist() if samples else [])
        recent = [[next(flat) for _ in group] for group in self.recent]
        return Answers(score_pairs(model, self.held_out), recent)


def calibrated_like(raw: PairScores, parent_raw: PairScores, parent: Calibration) -> Calibration:
    """The line that continues, from a candidate's raw rewards, the scores its parent serves for the same
    held-out texts. Raises InvalidVersionError where there is none: a parent whose scores are no numbers."""
    fitted = fit(raw.all, parent.scores(parent_raw.all))
    return Calibration.of({"name": "the candidate", "calibration": fitted.record()})


def described(
    model: RewardModel, raw: PairScores, calibration: Calibration, held_out: Sequence[Preference]
) -> dict[str, Any]:
    """What every published manifest says of its model: `calibration`, `probe` and `reference`, from its
    raw rewards of the held-out pairs; without pairs `reference` is null.

    Raises TrainingError where a score is not finite: such a model can serve nobody.
    """
    answers = probe.take(model)
    if not all(math.isfinite(reward) for reward in raw.all) or any(text["score"] is None for text in answers):
        raise TrainingError("the model answers scores that are not finite numbers")
    return {
        "calibration": calibration.record(),
        "probe": answers,
        "reference": _reference(raw, calibration, held_out) if held_out else None,
    }


def described_first(model: RewardModel, held_out: Sequence[Preference]) -> tuple[dict[str, Any], PairScores]:
    """The same of a version without a parent, whose raw rewards are its scores; and these rewards."""
    raw = score_pairs(model, encode_pairs(model.encoder, held_out)) if held_out else PairScores([], [])
    return described(model, raw, IDENTITY, held_out), raw


def _reference(raw: PairScores, calibration: Calibration, held_out: Sequence[Preference]) -> dict[str, Any]:
    """The scores of the held-out pairs as served, in a few figures: what live scores are held against."""
    scores = PairScores(calibration.scores(raw.chosen), calibration.scores(raw.rejected))
    first, middle, third = statistics.quantiles(scores.all, n=4, method="inclusive")
    percentiles = statistics.quantiles(scores.all, n=PERCENT, method="inclusive")
    return {
        "texts": len(scores.all),
        "digest": hashlib.sha256(orjson.dumps([asdict(pair) for pair in held_out])).hexdigest(),
        "spread": deviation(scores.margins),
        "median": middle,
        "iqr": third - first,
        "low": percentiles[0],
        "high": percentiles[-1],
    }
