"""What two versions say of the same texts, in figures the gate can judge. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

Z95 = 1.959964  # a normal distribution's central 95%
Rows = Sequence[Sequence[float]]  # one row a group


@dataclass(frozen=True, slots=True)
class PairScores:
    """Rewards of held-out pairs: `chosen[i]` and `rejected[i]` answer the same prompt."""

    chosen: Sequence[float]
    rejected: Sequence[float]

    @property
    def all(self) -> list[float]:
        return [*self.chosen, *self.rejected]

    @property
    def margins(self) -> list[float]:
        return [chosen - rejected for chosen, rejected in zip(self.chosen, self.rejected, strict=True)]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy after less accuracy before, on the same pairs: the mean with its 95% interval (normal
    approximation), and the chance of `lost` pairs or more among those that changed, were either way as likely
    (the sign test, McNemar's exact one, one-sided)."""

    mean: float
    low: float
    high: float
    lost: int
    won: int
    chance: float


def accuracy(scores: PairScores) -> float:
    """The share of pairs whose chosen response scores higher; a tie counts half."""
    return mean(_outcomes(scores))


def paired_difference(before: PairScores, after: PairScores) -> PairedDifference:
    """How accuracy changed. Both are of the same pairs, at least one."""
    changes = [b - a for a, b in zip(_outcomes(before), _outcomes(after), strict=True)]
    lost, won = (sum(change * sign > 0 for change in changes) for sign in (-1, 1))
    middle, half = mean(changes), Z95 * deviation(changes) / math.sqrt(len(changes))
    return PairedDifference(middle, middle - half, middle + half, lost, won, _sign_test(lost, lost + won))


def group_spread(rows: Rows) -> float:
    """The standard deviation of the reward difference of two responses to a prompt: over all pairs of a
    group, then over groups."""
    return math.sqrt(mean([mean([(a - b) ** 2 for a, b in combinations(row, 2)]) for row in rows]))


def agreement(parent: Rows, candidate: Rows) -> float | None:
    """Of the pairs within groups that the parent orders, the share that the candidate orders alike; one that
    the candidate ties counts half. None where the parent orders none."""
    alike = [
        1.0 if was == is_ else 0.5 if is_ == 0 else 0.0
        for before, after in zip(parent, candidate, strict=True)
        for was, is_ in zip(_orders(before), _orders(after), strict=True)
        if was
    ]
    return mean(alike) if alike else None


def within_group_correlation(rows: Rows, lengths: Rows) -> float | None:
    """Pearson's correlation of reward and length, both less their group's mean. None where one of them does
    not vary within groups."""
    rewards, tokens = _centred(rows), _centred(lengths)
    norm = math.sqrt(sum(r * r for r in rewards)) * math.sqrt(sum(t * t for t in tokens))
    if norm == 0:
        return None
    return max(-1.0, min(1.0, sum(r * t for r, t in zip(rewards, tokens, strict=True)) / norm))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of all there is (divided by n)."""
    middle = mean(values)
    return math.sqrt(mean([(value - middle) ** 2 for value in values]))


def ratio(value: float, to: float) -> float | None:
    """None where there is nothing to compare with."""
    return value / to if to > 0 else None


def _outcomes(scores: PairScores) -> list[float]:
    return [1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in scores.margins]


def _sign_test(heads: int, tosses: int) -> float:
    """The chance of `heads` or more in so many tosses of a fair coin."""
    return float(sum(math.comb(tosses, k) for k in range(heads, tosses + 1)) / (1 << tosses))


def _orders(row: Sequence[float]) -> list[int]:
    """Of every pair of a group: 1, -1, or 0 for a tie."""
    return [(a > b) - (a < b) for a, b in combinations(row, 2)]


def _centred(rows: Rows) -> list[float]:
    return [value - mean(row) for row in rows for value in row]
