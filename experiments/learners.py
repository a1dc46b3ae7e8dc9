"""A learner's advantages before and after a swap of the reward model. Pure; no torch.

Scores are (prompts, responses): the same responses by the old version and by the new one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
TINY = 1e-8  # as GRPO divides


@dataclass(frozen=True, slots=True)
class Swap:
    """The effects of one swap.

    `jump` is that of the mean score, in standard deviations of the old scores. PPO subtracts a running mean of
    recent scores by the old version: `flips` is the share of responses whose advantage changes sign, `size` the
    root mean square of advantages, after over before, and `informed` the share of flips had the running mean
    been of the new version's scores. GRPO compares within groups: `grpo_flips`.
    """

    jump: float
    flips: float
    informed: float
    size: float
    grpo_flips: float


def swap(old: Scores, new: Scores, recent_old: Scores, recent_new: Scores) -> Swap:
    """`recent_*` are the scores that the running mean covers: the last updates' responses, by each version."""
    spread = float(old.std())
    baseline = float(recent_old.mean())
    before, after, informed = old - baseline, new - baseline, new - float(recent_new.mean())
    return Swap(
        jump=float(new.mean() - old.mean()) / spread if spread else float("nan"),
        flips=_flips(before, after),
        informed=_flips(before, informed),
        size=_size(after) / _size(before),
        grpo_flips=_flips(grpo(old), grpo(new)),
    )


def grpo(scores: Scores) -> Scores:
    """Advantages within groups: (score - mean of the group) / standard deviation of the group."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    return np.asarray(centred / (scores.std(axis=1, keepdims=True) + TINY))


def _flips(before: Scores, after: Scores) -> float:
    return float(np.mean(before * after < 0))


def _size(advantages: Scores) -> float:
    return float(np.sqrt(np.mean(advantages**2)))
