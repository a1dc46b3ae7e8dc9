"""Figures over seeds with paired 95% bootstrap intervals, and the answers they allow. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Answer = Literal["yes", "no", "unclear"]
RESAMPLES = 10_000
# with fewer seeds, chance alone puts all of them on one side in more than 5 studies of 100
FEWEST_SEEDS = 6


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `seeds` seeds and its 95% bootstrap interval; all NaN without a seed. A
    `quotient` says "the same" at 1, anything else at 0."""

    value: float
    low: float
    high: float
    seeds: int
    quotient: bool = False

    def exp(self) -> Interval:
        """Of the logarithm of a quotient: the quotient itself (a geometric mean)."""
        value, low, high = (float(x) for x in np.exp([self.value, self.low, self.high]))
        return Interval(value, low, high, self.seeds, quotient=True)

    def __str__(self) -> str:
        """`+0.012 [-0.003, +0.027]`, or `×1.08 [0.97, 1.20]`."""
        if self.quotient:
            return f"×{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean of one value a seed; percentile bootstrap over seeds; deterministic."""
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    data = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(len(data), size=(RESAMPLES, len(data)))
    low, high = np.percentile(data[drawn].mean(axis=1), [2.5, 97.5])
    return Interval(float(data.mean()), float(low), float(high), len(data))


def above(interval: Interval, bound: float = 0.0) -> Answer:
    """Whether the figure is above `bound`."""
    if interval.seeds < FEWEST_SEEDS:
        return "unclear"
    return "yes" if interval.low > bound else "no" if interval.high < bound else "unclear"


def below(interval: Interval, bound: float = 0.0) -> Answer:
    """Whether the figure is below `bound`."""
    if interval.seeds < FEWEST_SEEDS:
        return "unclear"
    return "yes" if interval.high < bound else "no" if interval.low > bound else "unclear"


def within(interval: Interval, margin: float) -> Answer:
    """Whether the figure is 0 within `margin`: yes where the whole interval is inside, no where all of it is
    outside."""
    if interval.seeds < FEWEST_SEEDS:
        return "unclear"
    if -margin <= interval.low and interval.high <= margin:
        return "yes"
    return "no" if interval.low > margin or interval.high < -margin else "unclear"


def every(answers: Sequence[Answer]) -> Answer:
    """Yes where all are yes, no where one is no."""
    if "no" in answers:
        return "no"
    return "yes" if answers and all(answer == "yes" for answer in answers) else "unclear"
