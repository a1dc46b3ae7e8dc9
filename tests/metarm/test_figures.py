"""Every figure against a brute-force computation of its definition."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from metarm.figures import (
    DEPRECATED_DRIFT_NAMES,
    PairScores,
    agreement,
    centred,
    distinct,
    length_correlation,
    pair_orders,
    spread,
    taken,
    with_deprecated_names,
)


def rows(seed: int, groups: int = 12) -> list[list[float]]:
    rng = random.Random(seed)
    return [[float(rng.randint(0, 4)) for _ in range(rng.randint(2, 5))] for _ in range(groups)]


def like(other: list[list[float]], seed: int) -> list[list[float]]:
    rng = random.Random(f"like {seed}")
    return [[float(rng.randint(0, 4)) for _ in row] for row in other]


def test_a_tie_counts_as_half_correct() -> None:
    assert PairScores([1], [0]).accuracy == 1.0
    assert PairScores([1, 2, 3], [1, 2, 3]).accuracy == 0.5
    assert PairScores([1, 0, 2, 2], [0, 1, 2, 2]).accuracy == 0.5
    assert PairScores([3, 3, 0, 1], [0, 0, 3, 1]).accuracy == 0.625


@pytest.mark.parametrize("seed", range(20))
def test_the_spread_averages_over_the_pairs_of_a_group_and_then_over_groups(seed: int) -> None:
    groups = rows(seed)
    per_group = []
    for row in groups:
        squares = [(row[i] - row[j]) ** 2 for i in range(len(row)) for j in range(len(row)) if i != j]
        per_group.append(sum(squares) / len(squares))
    assert spread(groups) == pytest.approx(math.sqrt(sum(per_group) / len(per_group)))
    assert spread([[10 * r + 3 for r in row] for row in groups]) == pytest.approx(10 * spread(groups))


@pytest.mark.parametrize("seed", range(20))
def test_agreement_is_the_share_of_the_parents_ordered_pairs_that_the_candidate_orders_alike(seed: int) -> None:
    one = rows(seed)
    other = like(one, seed)
    points, ordered = 0.0, 0
    for a, b in zip(one, other, strict=True):
        for i in range(len(a)):
            for j in range(i):
                was, is_ = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
                if was != 0:
                    ordered += 1
                    points += 1.0 if was == is_ else 0.5 if is_ == 0 else 0.0
    assert agreement(one, other) == pytest.approx(points / ordered)
    assert agreement(one, one) == 1.0
    assert agreement(one, [[-r for r in row] for row in one]) == 0.0


def test_agreement_is_undefined_when_the_parent_orders_no_pair() -> None:
    assert agreement([], []) is None
    assert agreement([[1.0, 1.0]], [[2.0, 2.0]]) is None
    assert agreement([[1.0, 1.0]], [[2.0, 3.0]]) is None
    assert agreement([[2.0, 3.0]], [[1.0, 1.0]]) == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_the_length_correlation_is_pearsons_after_subtracting_group_means(seed: int) -> None:
    rewards = rows(seed)
    lengths = like(rewards, seed)
    left, right = ([v - np.mean(row) for row in some for v in row] for some in (rewards, lengths))
    expected = np.corrcoef(np.array(left), np.array(right))[0, 1]
    assert length_correlation(rewards, lengths) == pytest.approx(expected)
    # differences between prompts have no effect
    moved = [[v + 100 * place for v in row] for place, row in enumerate(rewards)]
    assert length_correlation(moved, lengths) == pytest.approx(expected)


def test_the_length_correlation_is_undefined_for_constant_rewards_or_lengths() -> None:
    assert length_correlation([[1.0, 2.0]], [[5, 5]]) is None
    assert length_correlation([[1.0, 1.0]], [[5, 6]]) is None
    assert length_correlation([], []) is None


def brute_disagreement(own: list[float], other: list[float]) -> float | None:
    outcomes = []
    for i, j in itertools.combinations(range(len(own)), 2):
        orders = [float(np.sign(scores[i] - scores[j])) for scores in (own, other)]
        if any(orders):
            outcomes.append(0.5 if 0.0 in orders else float(orders[0] != orders[1]))
    return sum(outcomes) / len(outcomes) if outcomes else None


@pytest.mark.parametrize("seed", range(40))
def test_disagreement_equals_a_count_over_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randint(2, 30)
    own, other = ([float(rng.randint(0, 6)) for _ in range(size)] for _ in range(2))
    expected = brute_disagreement(own, other)
    assert pair_orders(own, other).disagreement == (None if expected is None else pytest.approx(expected))


def test_disagreement_is_0_for_the_same_order_1_for_the_reverse_and_half_for_a_constant() -> None:
    scores = [0.3, -1.0, 2.0, 0.7]
    assert pair_orders(scores, [10 * score + 3 for score in scores]).disagreement == 0
    assert pair_orders(scores, [-score for score in scores]).disagreement == 1
    assert pair_orders(scores, [1.0] * 4).disagreement == 0.5
    assert pair_orders([2.0] * 4, [1.0] * 4).disagreement is None


def test_equal_scores_have_zero_spread_despite_rounding() -> None:
    for value in (0.1, 0.7, 1 / 3, 1e30):
        for size in range(2, 50):
            assert centred([value] * size) == [0.0] * size
            assert spread([[value] * size]) == 0.0


def test_of_repeated_responses_the_first_is_the_distinct_one() -> None:
    assert distinct([b"a", b"b", b"a", b"c", b"b"]) == [0, 1, 3]
    assert distinct([b"a"] * 5) == [0]
    assert distinct([]) == []
    assert taken([0.5, 0.7, 0.5, 0.9, 0.7], [0, 1, 3]) == [0.5, 0.7, 0.9]


def test_figures_are_readable_under_both_their_old_and_new_names() -> None:
    both = {"spread": 2.0, "spread_ratio": 0.5, "spread_to_reference": 0.5}
    for name in ("spread_ratio", "spread_to_reference"):
        assert with_deprecated_names({"spread": 2.0, name: 0.5}, DEPRECATED_DRIFT_NAMES) == both
    assert with_deprecated_names(both, DEPRECATED_DRIFT_NAMES) == both
    unknown = {"spread_ratio": None}
    assert with_deprecated_names(unknown, DEPRECATED_DRIFT_NAMES) == unknown | {"spread_to_reference": None}
