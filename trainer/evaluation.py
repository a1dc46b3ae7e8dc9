"""The texts that versions are compared on, their rewards, and the manifest's fields about them."""

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
from metarm.figures import PairScores, distinct, taken
from metarm.model import probe
from metarm.model.encoding import Encoded, Encoder
from metarm.model.reward_model import RewardModel
from metarm.records import Preference, SampleGroup
from metarm.store.calibration import IDENTITY, Calibration, fit
from trainer.batches import EncodedPair, encode_groups, encode_pairs
from trainer.gate import Rewards
from trainer.training import score_pairs

RECENT_GROUPS = 128  # at most: the newest
RECENT_RESPONSES = 4  # of each group, at most: more would add time and little precision
PERCENT = 100


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The texts that a candidate and its parent are compared by, encoded: held-out pairs, and the distinct
    responses of recent groups."""

    held_out: list[EncodedPair]
    recent: list[list[Encoded]]

    @classmethod
    def of(
        cls, encoder: Encoder, held_out: Sequence[Preference], groups: Sequence[SampleGroup]
    ) -> EvaluationSet:
        """`groups` are the newest last. Groups of fewer than two distinct responses are left out."""
        encoded = encode_groups(encoder, groups[-RECENT_GROUPS:])
        rows = [taken(group.responses, distinct([r.key for r in group.responses])) for group in encoded]
        recent = [responses[:RECENT_RESPONSES] for responses in rows if len(responses) > 1]
        return cls(encode_pairs(encoder, held_out), recent)

    @property
    def lengths(self) -> list[list[int]]:
        """Tokens of each recent response together with its prompt."""
        return [[len(response.ids) for response in responses] for responses in self.recent]

    @torch.inference_mode()
    def rewards(self, model: RewardModel) -> Rewards:
        """The raw rewards that `model` gives these texts."""
        samples = [sample for group in self.recent for sample in group]
        flat = iter(model.scores(samples).tolist() if samples else [])
        recent = [[next(flat) for _ in group] for group in self.recent]
        return Rewards(score_pairs(model, self.held_out), recent)


def calibrated_like(raw: PairScores, parent_raw: PairScores, parent: Calibration) -> Calibration:
    """The calibration under which a candidate continues the scores that its parent serves, from the raw rewards
    of both on the same held-out pairs. Raises InvalidVersionError for a parent with non-finite scores."""
    fitted = fit(raw.all, parent.scores(parent_raw.all))
    return Calibration.of({"name": "the candidate", "calibration": fitted.record()})


def described(
    model: RewardModel, raw: PairScores, calibration: Calibration, held_out: Sequence[Preference]
) -> dict[str, Any]:
    """The fields of a manifest that describe the model: `calibration`, `probe` and `reference`.

    `raw` are its raw rewards of the pairs `held_out`; without pairs `reference` is None. Raises TrainingError
    where a score is not finite: such a model is never served.
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
    """The same for a version without a parent, which serves its raw rewards; and these rewards."""
    raw = score_pairs(model, encode_pairs(model.encoder, held_out)) if held_out else PairScores([], [])
    return described(model, raw, IDENTITY, held_out), raw


def _reference(raw: PairScores, calibration: Calibration, held_out: Sequence[Preference]) -> dict[str, Any]:
    """The distribution of the served scores of the held-out pairs, which live scores are compared with."""
    scores = PairScores(calibration.scores(raw.chosen), calibration.scores(raw.rejected))
    first, middle, third = statistics.quantiles(scores.all, n=4, method="inclusive")
    percentiles = statistics.quantiles(scores.all, n=PERCENT, method="inclusive")
    return {
        "texts": len(scores.all),
        "digest": hashlib.sha256(orjson.dumps([asdict(pair) for pair in held_out])).hexdigest(),
        "spread": scores.spread,
        "median": middle,
        "iqr": third - first,
        "low": percentiles[0],
        "high": percentiles[-1],
    }
