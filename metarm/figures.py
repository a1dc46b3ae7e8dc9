"""The vocabulary of figures: their definitions from scores, and their names in answers. Pure, no torch.

A group is the distinct responses to one prompt (`distinct`), a pair is two responses of one group, and Δr is
the difference of their scores. Repeated responses always have equal scores, which say nothing about whether a
version separates responses: fewer than two distinct ones make no pair. (The simulation and the experiments
count every response that a policy drew, as Var(Δr) in the paper does.) The gate works on raw rewards,
everything else on the scores that are served.

spread                 √ of the mean over groups of the mean over pairs of Δr², in score units. Every group
                       counts the same, however many responses it has.
                       GET /drift: `spread`, `other_spread` · metric: rm_reward_spread
reference spread       Standard deviation of score(chosen) − score(rejected) on the held-out preferences, in
                       score units: how far a version separates responses in distribution.
                       manifest: `reference.spread` · GET /drift: `in_distribution.spread`
spread_to_reference    spread ÷ reference spread of the same version; about 1 in distribution.
                       GET /drift: `spread_to_reference`, `other_spread_to_reference`
                       metric: rm_reward_spread_to_reference · gate, on recent samples: `shifted_spread`
spread_to_other        spread_to_reference of one version ÷ that of another, on the same groups.
                       GET /drift, shadow and watch: `spread_to_other`
spread_to_parent       spread_to_reference of a candidate ÷ that of its parent, on recent samples.
                       gate: `spread_to_parent`, also in rm_retrain_gate_figure
spread_to_first        spread on the responses of a policy that has moved ÷ spread on the first policy's.
                       simulation and experiments: `spread_to_first`
disagreement           Share of a group's pairs that two versions order differently, averaged over groups. A tie
                       in one version counts half; a pair that both tie does not count.
                       GET /drift: `disagreement` · metric: rm_disagreement
agreement              Of all pairs that one version orders, the share that another orders alike. A tie in the
                       other counts half.
                       gate, candidate with parent: `agreement` · simulation, scores with gold: `accuracy`
held-out accuracy      Share of held-out preferences whose chosen response scores higher. A tie counts half.
                       gate and manifest: `held_out_accuracy`, `parent_accuracy`
length_correlation     Pearson's r of score and length, both centred within their group: positive where longer
                       responses score higher. The simulation's `score_length_correlation` is over all responses
                       as one group.
                       gate and GET /drift: `length_correlation` · metric: rm_length_correlation
truncation_rate        Share of responses, repeated ones too, that were truncated.
                       GET /drift: `truncation_rate` · metric: rm_truncation_ratio
saturated_share        Share of all scores outside the middle 98% of the scores of held-out preferences.
                       GET /drift: `saturated_share` · metric: rm_saturated_ratio

Shares and ratios have no unit. The gate's other figures (`accuracy_change`, `scale`, …) are in docs/metarm.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

Z95 = 1.959964  # a normal distribution's central 95%
Rows = Sequence[Sequence[float]]  # one row a group, one value a response
Value = TypeVar("Value")

# Names of earlier releases: old → new. Records may still have them; answers have both for one release.
DEPRECATED_GATE_NAMES = {"spread_ratio": "spread_to_parent"}
DEPRECATED_DRIFT_NAMES = {
    "spread_ratio": "spread_to_reference",
    "other_spread_ratio": "other_spread_to_reference",
    "relative_spread": "spread_to_other",
    "no_ratio": "ratio_unavailable",
}


def with_deprecated_names(figures: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`figures` under the old and the new name of each figure of `names` that it has under either."""
    both = dict(figures)
    for old, new in names.items():
        if old in both or new in both:
            both[old] = both[new] = both[new] if new in both else both[old]
    return both


@dataclass(frozen=True, slots=True)
class PairScores:
    """Scores of preferences: `chosen[i]` and `rejected[i]` answer the same prompt."""

    chosen: Sequence[float]
    rejected: Sequence[float]

    @property
    def all(self) -> list[float]:
        return [*self.chosen, *self.rejected]

    @property
    def margins(self) -> list[float]:
        return [chosen - rejected for chosen, rejected in zip(self.chosen, self.rejected, strict=True)]

    @property
    def wins(self) -> list[float]:
        """By pair: 1 if the chosen response scores higher, 0.5 for a tie, 0 otherwise."""
        return [1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in self.margins]

    @property
    def accuracy(self) -> float:
        """Needs one pair at least."""
        return fmean(self.wins)

    @property
    def spread(self) -> float:
        """The reference spread, if these are the held-out preferences. Needs one pair at least."""
        return deviation(self.margins)


class PairOrders(NamedTuple):
    """How two versions order the pairs of one group, in numbers of pairs. Pairs that both tie are left out."""

    alike: int
    opposite: int
    tied_by_own: int  # and ordered by the other version
    tied_by_other: int  # and ordered by its own version

    @property
    def ordered_by_own(self) -> int:
        return self.alike + self.opposite + self.tied_by_other

    @property
    def agreeing(self) -> float:
        """Of the pairs that its own version orders, those that the other orders alike; a tie counts half."""
        return self.alike + self.tied_by_other / 2

    @property
    def disagreement(self) -> float | None:
        """None if both versions tie every pair."""
        different = self.opposite + (self.tied_by_own + self.tied_by_other) / 2
        ordered = self.ordered_by_own + self.tied_by_own
        return different / ordered if ordered else None


def pair_orders(own: Sequence[float], other: Sequence[float]) -> PairOrders:
    """Compare two versions' scores of the k responses of one group, in O(k log k) comparisons."""
    both = sorted(zip(own, other, strict=True))
    pairs = _pairs([len(both)])
    tied_own, tied_other, tied_both = (_pairs(Counter(values).values()) for values in (own, other, both))
    opposite, below = 0, list[float]()  # the other's scores of what `own` scores lower, ascending
    for _, tied in groupby(both, key=lambda pair: pair[0]):
        scores = [score for _, score in tied]
        opposite += sum(len(below) - bisect_right(below, score) for score in scores)
        for score in scores:
            insort(below, score)
    alike = pairs - tied_own - tied_other + tied_both - opposite
    return PairOrders(alike, opposite, tied_own - tied_both, tied_other - tied_both)


def agreement(own: Rows, other: Rows) -> float | None:
    """Over all pairs of all groups; None if `own` orders none."""
    orders = [pair_orders(*rows) for rows in zip(own, other, strict=True)]
    ordered = sum(group.ordered_by_own for group in orders)
    return sum(group.agreeing for group in orders) / ordered if ordered else None


def share_interval(share: float, of: int) -> tuple[float, float]:
    """The 95% interval of a share that was found in `of` independent trials, at least one (Wilson, 1927)."""
    half, middle = Z95 * math.sqrt(share * (1 - share) / of + Z95**2 / (4 * of**2)), share + Z95**2 / (2 * of)
    return (middle - half) / (1 + Z95**2 / of), (middle + half) / (1 + Z95**2 / of)


def distinct(inputs: Sequence[Hashable]) -> list[int]:
    """The places of a group's distinct responses, ascending: the first of those that a model reads as the same
    input."""
    first: dict[Hashable, int] = {}
    for place, given in enumerate(inputs):
        first.setdefault(given, place)
    return list(first.values())


def taken(values: Sequence[Value], places: Sequence[int]) -> list[Value]:
    """The values at these places."""
    return [values[place] for place in places]


def spread(groups: Rows) -> float:
    """Over one group at least, each of two distinct responses at least."""
    return math.sqrt(fmean(squared_difference(scores) for scores in groups))


def squared_difference(scores: Sequence[float]) -> float:
    """The mean of Δr² over the pairs of one group: twice the unbiased variance of its scores."""
    return 2 * sum(d * d for d in centred(scores)) / (len(scores) - 1)


def length_correlation(groups: Rows, lengths: Rows) -> float | None:
    """None if scores or lengths do not vary within groups."""
    sums = [covariation(*rows) for rows in zip(groups, lengths, strict=True)]
    return pearson(*(sum(column) for column in zip(*sums, strict=True))) if sums else None


def covariation(scores: Sequence[float], lengths: Sequence[float]) -> tuple[float, float, float]:
    """Of one group: Σ s², Σ l² and Σ s·l, where s and l are score and length centred within the group."""
    own, others = centred(scores), centred(lengths)
    products = sum(s * length for s, length in zip(own, others, strict=True))
    return sum(s * s for s in own), sum(length * length for length in others), products


def pearson(squares: float, other_squares: float, products: float) -> float | None:
    """Pearson's r from sums over deviations; None if either does not vary."""
    scale = math.sqrt(squares) * math.sqrt(other_squares)
    return max(-1.0, min(1.0, products / scale)) if scale > 0 else None


def deviation(values: Sequence[float]) -> float:
    """The population standard deviation (divided by n)."""
    return math.sqrt(fmean(d * d for d in centred(values)))


def centred(values: Sequence[float]) -> list[float]:
    """`values` less their mean; exact zeros for equal values.

    Sums of squares and products of centred values stay precise even for a large mean: its rounding error enters
    them squared.
    """
    middle = values[0] if min(values) == max(values) else sum(values) / len(values)
    return [value - middle for value in values]


def ratio(value: float | None, to: float | None) -> float | None:
    """value ÷ to; None if either is missing or `to` is not positive."""
    return value / to if value is not None and to is not None and to > 0 else None


def _pairs(sizes: Iterable[int]) -> int:
    """The number of pairs within sets of these sizes."""
    return sum(size * (size - 1) // 2 for size in sizes)
