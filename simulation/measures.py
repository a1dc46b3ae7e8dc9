"""The figures of a reward model and a policy; pure functions of numbers.

A group is one prompt's k responses. `scores` are the reward model's, `gold` the gold rewards, both
in the shape of the groups. Pairs are the unordered pairs within a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from metarm.figures import length_correlation, pair_orders, squared_difference

Numbers = Sequence[Sequence[float]]
FloatArray = NDArray[np.float64]

RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over `pairs` pairs, with its 95% interval over prompts."""

    value: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """One set of groups, measured. Spreads are of the score difference of two responses to a prompt."""

    score_mean: float
    score_spread: float  # standard deviation of r(y1) - r(y2)
    score_variance: float  # its square: Var(r(y1) - r(y2))
    gold_mean: float
    gold_variance: float  # Var(g(y1) - g(y2)); near 0, accuracy is meaningless
    accuracy: Estimate
    length_mean: float  # words
    score_length_correlation: float

    def as_dict(self) -> dict[str, object]:
        """Plain numbers, for JSON."""
        return asdict(self)


def measure(scores: Numbers, gold: Numbers, lengths: Numbers, rng: np.random.Generator) -> Measurement:
    """All measures of one set of groups; `rng` is for the bootstrap."""
    variance = difference_variance(scores)
    return Measurement(
        score_mean=_mean(scores),
        score_spread=float(np.sqrt(variance)),
        score_variance=variance,
        gold_mean=_mean(gold),
        gold_variance=difference_variance(gold),
        accuracy=pairwise_accuracy(scores, gold, rng),
        length_mean=_mean(lengths),
        score_length_correlation=correlation(scores, lengths),
    )


def difference_variance(values: Numbers) -> float:
    """Mean over groups of the mean squared difference of two members: the square of their spread.

    The sign of a difference is arbitrary, so its mean is 0 and this is Var(v(y1) - v(y2)).
    """
    return float(np.mean([squared_difference(group) for group in values]))


def pairwise_accuracy(
    scores: Numbers, gold: Numbers, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Estimate:
    """The agreement of scores with gold: the share of the pairs that gold orders which the scores order alike,
    a tie counting half. NaN if gold orders no pair."""
    hits, pairs = _agreements(scores, gold)
    return _share(hits, pairs, rng, resamples)


def accuracy_change(before: Numbers, after: Numbers, gold: Numbers, rng: np.random.Generator) -> Estimate:
    """The accuracy of the scores `after` minus the accuracy of `before`, on the same responses (paired)."""
    hits_before, pairs = _agreements(before, gold)
    hits_after, _ = _agreements(after, gold)
    return _share(hits_after - hits_before, pairs, rng, RESAMPLES)


def _agreements(scores: Numbers, gold: Numbers) -> tuple[FloatArray, FloatArray]:
    """By group: the pairs ordered as gold orders them, and all that gold orders; (n_groups,) each."""
    orders = [pair_orders(*group) for group in zip(gold, scores, strict=True)]
    return np.array([o.agreeing for o in orders]), np.array([float(o.ordered_by_own) for o in orders])


def _share(hits: FloatArray, pairs: FloatArray, rng: np.random.Generator, resamples: int) -> Estimate:
    """hits / pairs, with a percentile bootstrap over groups, which keeps the pairs of a prompt together."""
    if pairs.sum() == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    drawn = rng.integers(len(hits), size=(resamples, len(hits)))
    drawn_pairs = pairs[drawn].sum(axis=1)
    resampled = hits[drawn].sum(axis=1)[drawn_pairs > 0] / drawn_pairs[drawn_pairs > 0]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(hits.sum() / pairs.sum()), float(low), float(high), int(pairs.sum()))


def correlation(first: Numbers, second: Numbers) -> float:
    """Pearson's r over all responses, as if they were one group; 0 if either does not vary."""
    return length_correlation([_flat(first)], [_flat(second)]) or 0.0


def _flat(values: Numbers) -> list[float]:
    return [value for group in values for value in group]


def _mean(values: Numbers) -> float:
    return float(np.mean(_flat(values)))
