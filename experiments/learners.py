"""What a learner makes of scores, before and after a swap of the reward model. Pure; no torch.

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
    """One swap as learners meet it.

    jump: the mean score's, in standard deviations of the old scores. PPO subtracts a running mean of recent
    scores, which knows nothing of the swap; `flips` are the share of responses whose advantage changes its
    sign, `told` the same had the running mean been of the new version's scores, `size` the root mean square of
    advantages, after over before. GRPO compares within groups: `grpo_flips`.
    """

    jump: float
    flips: float
    told: float
    size: float
    grpo_flips: float


def swap(old: Scores, new: Scores, recent_old: Scores, recent_new: Scores) -> Swap:
    """`recent_*` are what the running mean is of: the last updates' responses, by each version."""
    spread = float(old.std())
    baseline = float(recent_old.mean())
    before, after, told = old - baseline, new - baseline, new - float(recent_new.mean())
    return Swap(
        jump=float(new.mean() - old.mean()) / spread if spread else float("nan"),
        flips=_flips(before, after),
        told=_flips(before, told),
        size=_size(after) / _size(before),
        grpo_flips=_flips(grpo(old), grpo(new)),
    )


def grpo(scores: Scores) -> Scores:
    """Advantages within groups: less the group's mean, over its standard deviation."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    return np.asarray(centred / (scores.std(axis=1, keepdims=True) + TINY))


def _flips(before: Scores, after: Scores) -> float:
    return float(np.mean(before * after < 0))


def _size(advantages: Scores) -> float:
    return float(np.sqrt(np.mean(advantages**2)))
