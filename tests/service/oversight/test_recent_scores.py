"""Histograms of reward differences against brute force, and their limits."""

from __future__ import annotations

import random

import numpy as np
import pytest

from service.oversight.recent_scores import BINS, KEEP_DIFFERENCES, KEEP_POINTS, RecentScores, histograms


def filled(seed: int, groups: int, size: int = 4, scale: float = 1.0) -> RecentScores:
    rng, recent = random.Random(seed), RecentScores()
    for _ in range(groups):
        recent.add([rng.gauss(0, scale) for _ in range(size)], [rng.randint(5, 50) for _ in range(size)])
    return recent


def test_each_response_is_in_at_most_one_pair_and_a_single_response_in_none() -> None:
    recent = RecentScores()
    recent.add([1.0, 4.0, 0.5, 0.5, 9.0], [10, 20, 30, 40, 50])
    recent.add([7.0], [3])
    assert list(recent.differences) == [3.0, 0.0]
    assert recent.lengths() == {"tokens": [10, 20, 30, 40, 3], "scores": [1.0, 4.0, 0.5, 0.5, 7.0]}


def test_large_groups_and_long_traffic_keep_a_bounded_number_of_scores() -> None:
    recent = filled(0, groups=1, size=512)
    assert (len(recent.differences), len(recent.points)) == (8, 4)
    recent = filled(0, groups=3000)
    assert (len(recent.differences), len(recent.points)) == (KEEP_DIFFERENCES, KEEP_POINTS)


@pytest.mark.parametrize("scale", [0.001, 0.8, 3000.0])
def test_two_histograms_share_their_bins_and_count_every_difference(scale: float) -> None:
    sets = [filled(1, 400, scale=scale).differences, filled(2, 300, scale=scale / 3).differences]
    found = histograms(sets)
    width = found[0]["width"]
    assert found[1]["width"] == width
    for differences, histogram in zip(sets, found, strict=True):
        places = np.floor(np.array(differences) / width)
        expected = [int(np.sum(places == place)) for place in range(BINS)]
        assert histogram["counts"] == expected
        assert histogram["pairs"] == len(differences) == sum(expected) + histogram["beyond"]
    together = sum(histogram["beyond"] for histogram in found)
    assert together <= 0.01 * sum(map(len, sets)) + 1


def test_histograms_exist_for_no_differences_and_for_equal_scores() -> None:
    assert histograms([[]]) == [{"pairs": 0, "width": 1.0, "counts": [0] * BINS, "beyond": 0}]
    (equal,) = histograms([[0.0, 0.0]])
    assert (equal["counts"][0], equal["beyond"]) == (2, 0)
