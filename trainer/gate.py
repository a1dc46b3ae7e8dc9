"""Held-out scores → a verdict on a candidate. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROUNDING = 1e-9  # a loss of exactly the tolerance is allowed, whatever the float sum says


@dataclass(frozen=True, slots=True)
class PairScores:
    """Rewards of held-out pairs: `chosen[i]` and `rejected[i]` answer the same prompt."""

    chosen: Sequence[float]
    rejected: Sequence[float]

    @property
    def all(self) -> list[float]:
        return [*self.chosen, *self.rejected]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate may serve, every reason against it, and the figures behind it."""

    accepted: bool
    reasons: list[str]
    figures: Mapping[str, float | None]


def judge(parent: PairScores, candidate: PairScores, tolerance: float) -> Verdict:
    """Accept a candidate whose held-out accuracy is at most `tolerance` below its parent's, and whose
    scores are finite and not constant."""
    if not all(math.isfinite(score) for score in candidate.all):
        return Verdict(False, ["the candidate answers scores that are not finite numbers"], {})
    before, after = accuracy(parent), accuracy(candidate)
    figures = {
        "held_out_pairs": float(len(candidate.chosen)),
        "held_out_accuracy": after,
        "parent_accuracy": before,
        "tolerance": tolerance,
        "mean_margin": _mean_margin(candidate),
        "parent_mean_margin": _mean_margin(parent),
        "score_std": _std(candidate.all),
        "parent_score_std": _std(parent.all),
    }
    reasons = []
    if after < before - tolerance - ROUNDING:
        reasons.append(
            f"held-out accuracy fell from {before:.3f} to {after:.3f}, more than the tolerance of {tolerance:g}"
        )
    if _std(candidate.all) < 1e-6:
        reasons.append("the candidate gives every response the same score")
    return Verdict(not reasons, reasons, figures)


def accuracy(scores: PairScores) -> float:
    """The share of pairs whose chosen response scores higher; a tie counts half."""
    wins = [
        1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0
        for chosen, rejected in zip(scores.chosen, scores.rejected, strict=True)
    ]
    return sum(wins) / len(wins)


def _mean_margin(scores: PairScores) -> float:
    gaps = [chosen - rejected for chosen, rejected in zip(scores.chosen, scores.rejected, strict=True)]
    return sum(gaps) / len(gaps)


def _std(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
