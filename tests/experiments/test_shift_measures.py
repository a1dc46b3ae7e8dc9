"""The measures against plain Python on the expanded resample, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.shifted.measures import BINS, labelled, spread

GAPS = (0.7, -0.1, 0.0, 2.5, -1.2, 0.05, 0.05, -3.0)
SHORTER = (True, False, True, False, True, False, False, True)


@given(
    weights=st.lists(st.integers(0, 3), min_size=len(GAPS), max_size=len(GAPS)).filter(any),
    id_spread=st.floats(0.1, 3.0),
)
def test_every_measure_equals_plain_python_on_the_expanded_resample(
    weights: list[int], id_spread: float
) -> None:
    drawn = [pair for pair, count in enumerate(weights) for _ in range(count)]
    gaps, shorter = [GAPS[pair] for pair in drawn], [SHORTER[pair] for pair in drawn]
    ones = np.ones((1, len(GAPS)))  # a second resample must not change the first
    found = labelled(np.array(GAPS), np.array(SHORTER), np.vstack([weights, ones]), np.array([id_spread, 1.0]))
    expected = {
        "accuracy": _accuracy(gaps),
        "accuracy_shorter": _accuracy([gap for gap, kept in zip(gaps, shorter, strict=True) if kept]),
        "spread": _spread(gaps),
        "spread_to_reference": _spread(gaps) / id_spread,
        "crowded": sum(abs(gap) < 0.2 * id_spread for gap in gaps) / len(gaps),
        "calibration_error": _calibration_error(gaps),
    }
    assert found.keys() == expected.keys()
    for name, figures in found.items():
        assert figures[0] == pytest.approx(expected[name], nan_ok=True)


def test_spread_is_the_standard_deviation_over_both_orders_of_every_pair() -> None:
    both = [*GAPS, *(-gap for gap in GAPS)]
    assert spread(np.array(GAPS), np.ones((1, len(GAPS)))) == pytest.approx(np.std(both))


def test_scores_whose_confidence_equals_their_accuracy_have_no_calibration_error() -> None:
    sure = math.log(3.0)  # σ = ¾
    gaps = np.array([sure, sure, sure, -sure])
    figures = labelled(gaps, np.zeros(4, dtype=bool), np.ones((1, 4)), np.ones(1))
    assert figures["calibration_error"][0] == pytest.approx(0.0, abs=1e-9)


def _accuracy(gaps: Sequence[float]) -> float:
    right = [1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps]
    return sum(right) / len(right) if right else math.nan


def _spread(gaps: Sequence[float]) -> float:
    return math.sqrt(sum(gap * gap for gap in gaps) / len(gaps))


def _calibration_error(gaps: Sequence[float]) -> float:
    bins: dict[int, list[tuple[float, float]]] = {}
    for gap in gaps:
        confidence = 1 / (1 + math.exp(-abs(gap)))
        place = min(int((confidence - 0.5) / 0.5 * BINS), BINS - 1)
        bins.setdefault(place, []).append((confidence, _accuracy([gap])))
    total = 0.0
    for members in bins.values():
        sure = sum(confidence for confidence, _ in members) / len(members)
        right = sum(correct for _, correct in members) / len(members)
        total += len(members) / len(gaps) * abs(sure - right)
    return total
