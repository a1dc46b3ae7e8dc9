"""Every figure of the gate against a definition spelt out."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest

from trainer.figures import (
    PairScores,
    accuracy,
    agreement,
    group_spread,
    paired_difference,
    within_group_correlation,
)


def rows(seed: int, groups: int = 12) -> list[list[float]]:
    rng = random.Random(seed)
    return [[float(rng.randint(0, 4)) for _ in range(rng.randint(2, 5))] for _ in range(groups)]


def like(other: list[list[float]], seed: int) -> list[list[float]]:
    rng = random.Random(f"like {seed}")
    return [[float(rng.randint(0, 4)) for _ in row] for row in other]


def pairs(seed: int, count: int = 30) -> PairScores:
    rng = random.Random(seed)
    chosen, rejected = ([float(rng.randint(0, 3)) for _ in range(count)] for _ in range(2))
    return PairScores(chosen, rejected)


def test_a_tie_counts_half() -> None:
    assert accuracy(PairScores([1], [0])) == 1.0
    assert accuracy(PairScores([1, 2, 3], [1, 2, 3])) == 0.5
    assert accuracy(PairScores([1, 0, 2, 2], [0, 1, 2, 2])) == 0.5
    assert accuracy(PairScores([3, 3, 0, 1], [0, 0, 3, 1])) == 0.625


@pytest.mark.parametrize("seed", range(20))
def test_the_paired_difference_is_that_of_the_accuracies_pair_by_pair(seed: int) -> None:
    before, after = pairs(seed), pairs(seed + 1000)
    found = paired_difference(before, after)
    assert found.mean == pytest.approx(accuracy(after) - accuracy(before))

    def won(scores: PairScores, i: int) -> float:
        return float(np.sign(scores.chosen[i] - scores.rejected[i]) + 1) / 2

    changes = [won(after, i) - won(before, i) for i in range(30)]
    half = 1.959964 * statistics.pstdev(changes) / math.sqrt(30)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert (found.lost, found.won) == (sum(c < 0 for c in changes), sum(c > 0 for c in changes))


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (0, 3), (4, 4), (7, 2), (9, 1)])
def test_the_chance_of_a_loss_is_counted_over_every_way_the_pairs_could_have_changed(
    lost: int, won: int
) -> None:
    before = PairScores([1.0] * lost + [0.0] * won + [1.0] * 3, [0.5] * (lost + won + 3))
    after = PairScores([0.0] * lost + [1.0] * won + [1.0] * 3, [0.5] * (lost + won + 3))
    ways = list(itertools.product([0, 1], repeat=lost + won))
    assert paired_difference(before, after).chance == sum(sum(way) >= lost for way in ways) / len(ways)


def test_the_chance_is_a_number_for_many_pairs_too() -> None:
    one, other = PairScores([1.0] * 3000, [0.0] * 3000), PairScores([0.0] * 3000, [1.0] * 3000)
    assert paired_difference(one, other).chance == pytest.approx(0.0, abs=1e-300)
    assert paired_difference(other, one).chance == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_the_spread_is_over_all_pairs_of_a_group_and_then_over_groups(seed: int) -> None:
    groups = rows(seed)
    per_group = []
    for row in groups:
        squares = [(row[i] - row[j]) ** 2 for i in range(len(row)) for j in range(len(row)) if i != j]
        per_group.append(sum(squares) / len(squares))
    assert group_spread(groups) == pytest.approx(math.sqrt(sum(per_group) / len(per_group)))
    assert group_spread([[10 * r + 3 for r in row] for row in groups]) == pytest.approx(
        10 * group_spread(groups)
    )


@pytest.mark.parametrize("seed", range(20))
def test_agreement_counts_the_parents_pairs_that_the_candidate_orders_alike(seed: int) -> None:
    one = rows(seed)
    other = like(one, seed)
    points, said = 0.0, 0
    for a, b in zip(one, other, strict=True):
        for i in range(len(a)):
            for j in range(i):
                was, is_ = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
                if was != 0:
                    said += 1
                    points += 1.0 if was == is_ else 0.5 if is_ == 0 else 0.0
    assert agreement(one, other) == pytest.approx(points / said)
    assert agreement(one, one) == 1.0
    assert agreement(one, [[-r for r in row] for row in one]) == 0.0


def test_agreement_says_nothing_where_the_parent_orders_nothing() -> None:
    assert agreement([], []) is None
    assert agreement([[1.0, 1.0]], [[2.0, 2.0]]) is None
    assert agreement([[1.0, 1.0]], [[2.0, 3.0]]) is None
    assert agreement([[2.0, 3.0]], [[1.0, 1.0]]) == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_the_length_correlation_is_pearsons_of_what_is_left_within_groups(seed: int) -> None:
    rewards = rows(seed)
    lengths = like(rewards, seed)
    left, right = ([v - np.mean(row) for row in some for v in row] for some in (rewards, lengths))
    expected = np.corrcoef(np.array(left), np.array(right))[0, 1]
    assert within_group_correlation(rewards, lengths) == pytest.approx(expected)
    # what differs between prompts does not count
    moved = [[v + 100 * place for v in row] for place, row in enumerate(rewards)]
    assert within_group_correlation(moved, lengths) == pytest.approx(expected)


def test_the_length_correlation_is_not_defined_where_one_of_them_does_not_vary() -> None:
    assert within_group_correlation([[1.0, 2.0]], [[5, 5]]) is None
    assert within_group_correlation([[1.0, 1.0]], [[5, 6]]) is None
    assert within_group_correlation([], []) is None
