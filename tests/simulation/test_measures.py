from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from simulation.measures import accuracy_change, correlation, difference_variance, measure, pairwise_accuracy

RNG_SEED = 0


def rng() -> np.random.Generator:
    return np.random.default_rng(RNG_SEED)


def test_difference_variance_is_the_mean_squared_difference_of_pairs() -> None:
    groups = [[0.0, 1.0, 3.0], [2.0, 2.0, 5.0]]
    by_hand = [np.mean([(a - b) ** 2 for a, b in itertools.combinations(group, 2)]) for group in groups]
    assert difference_variance(groups) == pytest.approx(np.mean(by_hand))


def test_difference_variance_ignores_the_mean_of_a_prompt() -> None:
    assert difference_variance([[0.0, 1.0], [100.0, 101.0]]) == difference_variance([[0.0, 1.0], [0.0, 1.0]])


def test_accuracy_counts_the_pairs_with_different_gold() -> None:
    accuracy = pairwise_accuracy([[3.0, 2.0, 1.0]], [[5.0, 5.0, 6.0]], rng())
    assert (accuracy.value, accuracy.pairs) == (0.0, 2)
    assert pairwise_accuracy([[1.0, 2.0, 3.0]], [[5.0, 5.0, 6.0]], rng()).value == 1.0


def test_equal_scores_have_the_accuracy_of_chance() -> None:
    assert pairwise_accuracy([[1.0, 1.0, 1.0]], [[0.0, 1.0, 2.0]], rng()).value == 0.5


def test_accuracy_is_undefined_where_all_gold_is_equal() -> None:
    accuracy = pairwise_accuracy([[1.0, 2.0]], [[0.0, 0.0]], rng())
    assert math.isnan(accuracy.value)
    assert accuracy.pairs == 0


def test_interval_covers_the_true_accuracy_about_95_times_in_100() -> None:
    drawing, covered = np.random.default_rng(3), 0
    truth = 0.5 + math.asin(0.6) / math.pi  # two normals correlated .6 agree in sign this often
    for _ in range(200):
        gold = drawing.normal(size=(60, 4))
        scores = 0.6 * gold + 0.8 * drawing.normal(size=(60, 4))
        accuracy = pairwise_accuracy(scores.tolist(), gold.tolist(), drawing, resamples=200)
        covered += accuracy.low <= truth <= accuracy.high
    assert covered >= 178


def test_change_of_accuracy_is_paired() -> None:
    gold = np.random.default_rng(4).normal(size=(30, 5)).tolist()
    noisy = (np.array(gold) + np.random.default_rng(5).normal(size=(30, 5))).tolist()
    same = accuracy_change(noisy, noisy, gold, rng())
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    better = accuracy_change(noisy, gold, gold, rng())
    assert better.value == pytest.approx(1.0 - pairwise_accuracy(noisy, gold, rng()).value)
    assert better.low > 0


def test_correlation_of_a_constant_is_zero() -> None:
    assert correlation([[1.0, 1.0]], [[1.0, 2.0]]) == 0.0
    assert correlation([[1.0, 2.0], [3.0, 4.0]], [[2.0, 4.0], [6.0, 8.0]]) == pytest.approx(1.0)


def test_spread_is_the_root_of_the_variance() -> None:
    m = measure([[0.0, 2.0]], [[0.0, 1.0]], [[3.0, 4.0]], rng())
    assert (m.score_variance, m.score_spread, m.gold_variance) == (4.0, 2.0, 1.0)
    assert (m.score_mean, m.gold_mean, m.length_mean) == (1.0, 0.5, 3.5)
