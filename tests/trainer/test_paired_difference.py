"""The change of accuracy on the same pairs, compared with a direct computation of its definition."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest

from metarm.figures import PairScores
from trainer.gate import paired_difference


def pairs(seed: int, count: int = 30) -> PairScores:
    rng = random.Random(seed)
    chosen, rejected = ([float(rng.randint(0, 3)) for _ in range(count)] for _ in range(2))
    return PairScores(chosen, rejected)


@pytest.mark.parametrize("seed", range(20))
def test_the_paired_difference_equals_the_mean_change_per_pair(seed: int) -> None:
    before, after = pairs(seed), pairs(seed + 1000)
    found = paired_difference(before, after)
    assert found.mean == pytest.approx(after.accuracy - before.accuracy)

    def won(scores: PairScores, i: int) -> float:
        return float(np.sign(scores.chosen[i] - scores.rejected[i]) + 1) / 2

    changes = [won(after, i) - won(before, i) for i in range(30)]
    half = 1.959964 * statistics.pstdev(changes) / math.sqrt(30)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert (found.lost, found.won) == (sum(c < 0 for c in changes), sum(c > 0 for c in changes))


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (0, 3), (4, 4), (7, 2), (9, 1)])
def test_the_chance_of_a_loss_equals_an_enumeration_of_all_outcomes(lost: int, won: int) -> None:
    before = PairScores([1.0] * lost + [0.0] * won + [1.0] * 3, [0.5] * (lost + won + 3))
    after = PairScores([0.0] * lost + [1.0] * won + [1.0] * 3, [0.5] * (lost + won + 3))
    ways = list(itertools.product([0, 1], repeat=lost + won))
    assert paired_difference(before, after).chance == sum(sum(way) >= lost for way in ways) / len(ways)


def test_the_chance_is_finite_for_many_pairs() -> None:
    one, other = PairScores([1.0] * 3000, [0.0] * 3000), PairScores([0.0] * 3000, [1.0] * 3000)
    assert paired_difference(one, other).chance == pytest.approx(0.0, abs=1e-300)
    assert paired_difference(other, one).chance == 1.0
