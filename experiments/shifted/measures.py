"""Figures of score differences, under weights on the pairs. Pure.

Weights (B, n) are B resamples at once: how often each of n pairs was drawn. A row of ones is the sample.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Measure = Literal[
    "accuracy", "accuracy_shorter", "spread", "spread_to_reference", "crowded", "calibration_error"
]
BINS = 10
CROWDED_BELOW = 0.2  # in-distribution spreads


def spread(gaps: Floats, weights: Floats) -> Floats:
    """(B,): the standard deviation of the score difference of two responses, either one first, so that its
    mean is 0: the root of the mean of `gaps`² (n,). It is the spread of metarm/figures.py, under weights."""
    found: Floats = np.sqrt(_mean(gaps**2, weights))
    return found


def unlabelled(gaps: Floats, weights: Floats, id_spread: Floats) -> dict[Measure, Floats]:
    """What needs no label, each (B,): the spread, that over `id_spread` (B,), and the share of pairs whose
    difference is below CROWDED_BELOW of it."""
    own = spread(gaps, weights)
    crowded = np.abs(gaps) < CROWDED_BELOW * id_spread[:, None]  # (B, n)
    return {
        "spread": own,
        "spread_to_reference": _ratio(own, id_spread),
        "crowded": _ratio((weights * crowded).sum(axis=1), weights.sum(axis=1)),
    }


def labelled(gaps: Floats, shorter: Bools, weights: Floats, id_spread: Floats) -> dict[Measure, Floats]:
    """All measures, each (B,), of `gaps` (n,): score of the chosen response minus that of the rejected.

    A tie is half right. `shorter` (n,): the chosen one has fewer words; `accuracy_shorter` is of these pairs.
    """
    right = (gaps > 0) + 0.5 * (gaps == 0)
    return {
        "accuracy": _mean(right, weights),
        "accuracy_shorter": _mean(right[shorter], weights[:, shorter]),
        **unlabelled(gaps, weights, id_spread),
        "calibration_error": _calibration_error(gaps, right, weights),
    }


def _calibration_error(gaps: Floats, right: Floats, weights: Floats) -> Floats:
    """Expected calibration error (B,): the confidence σ(|gap|) lies in [½, 1], cut into BINS equal bins; the
    mean over pairs of |mean confidence - accuracy| of their bin."""
    confidence = 1.0 / (1.0 + np.exp(-np.abs(gaps)))
    places = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    inside = places[:, None] == np.arange(BINS)  # (n, BINS)
    apart = weights @ (inside * (confidence - right)[:, None])  # (B, BINS)
    return _ratio(np.abs(apart).sum(axis=1), weights.sum(axis=1))


def _mean(values: Floats, weights: Floats) -> Floats:
    return _ratio(weights @ values, weights.sum(axis=1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    nothing = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    found: Floats = np.divide(part, whole, out=nothing, where=whole > 0)
    return found
