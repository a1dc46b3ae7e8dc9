"""What served scores say of a reward model while the policy moves: streaming figures. Pure: no HTTP, no torch.

| figure             | of which groups     | what it is                                                       |
| ------------------ | ------------------- | ---------------------------------------------------------------- |
| spread             | of two or more      | root mean square of the score difference of two responses        |
| spread_ratio       |                     | spread ÷ the version's spread on held-out preferences            |
| length_correlation | of two or more      | Pearson's r of score and tokens, both centred by group           |
| truncation_rate    | all                 | share of responses that were cut to fit                          |
| saturated_share    | all                 | share of scores outside the reference's 1% to 99%                |
| disagreement       | of two or more      | share of a group's pairs that another version orders otherwise   |

Spread and disagreement are means over groups, in which a group counts the same however many responses it
has. Sums are of values centred within their group, so that a large mean costs no precision.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import add
from typing import Any, NamedTuple, Self

from metarm.records import PolicyStamp
from service.oversight.recent_scores import RecentScores

KEEP_STEPS = 32  # of a version, each with figures of its own; older ones are merged
KEEP_VERSIONS = 32


@dataclass(frozen=True, slots=True)
class Reference:
    """A version's scores in distribution, from its manifest; `missing` says why there are none."""

    spread: float | None = None
    low: float = -math.inf
    high: float = math.inf
    missing: str | None = None
    pairs: int | None = None  # that the spread is of, where that is known

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Self:
        record = manifest.get("reference")
        if record is None:
            return cls(missing="its manifest has no reference")
        try:
            spread, low, high = (float(record[key]) for key in ("spread", "low", "high"))
            pairs = int(record["texts"]) // 2 if "texts" in record else None
        except (KeyError, TypeError, ValueError):
            return cls(missing="the reference in its manifest cannot be read")
        if not (0 < spread < math.inf and low <= high):
            return cls(missing="the reference in its manifest has no spread")
        return cls(spread, low, high, pairs=pairs)

    def ratio(self, spread: float | None) -> float | None:
        return None if spread is None or self.spread is None else spread / self.spread


class Figures(NamedTuple):
    """Sums over groups, from which the figures follow. Those of two sets of groups add up."""

    groups: int = 0
    responses: int = 0
    truncated: int = 0
    saturated: int = 0
    compared: int = 0  # groups of two or more
    squares: float = 0.0  # Σ over them of the mean squared difference of two scores
    scores: float = 0.0  # Σ (score - its group's mean)²
    lengths: float = 0.0  # Σ (tokens - their group's mean)²
    products: float = 0.0  # Σ of both deviations' products

    @classmethod
    def of_group(
        cls, scores: Sequence[float], lengths: Sequence[int], truncated: int, reference: Reference
    ) -> Self:
        """Of one group: a score and a number of tokens a response."""
        size = len(scores)
        saturated = sum(not reference.low <= score <= reference.high for score in scores)
        if size < 2:
            return cls(1, size, truncated, saturated)
        deviations, longer = _centred(scores), _centred(lengths)
        squared = sum(d * d for d in deviations)
        return cls(
            1,
            size,
            truncated,
            saturated,
            1,
            2 * squared / (size - 1),
            squared,
            sum(d * d for d in longer),
            sum(d * more for d, more in zip(deviations, longer, strict=True)),
        )

    def plus(self, other: Figures) -> Figures:
        return Figures(*map(add, self, other))

    @property
    def spread(self) -> float | None:
        return math.sqrt(self.squares / self.compared) if self.compared else None

    @property
    def length_correlation(self) -> float | None:
        """None where nothing varies."""
        scale = math.sqrt(self.scores) * math.sqrt(self.lengths)
        return max(-1.0, min(1.0, self.products / scale)) if scale > 0 else None

    @property
    def truncation_rate(self) -> float | None:
        return self.truncated / self.responses if self.responses else None

    def saturated_share(self, reference: Reference) -> float | None:
        known = self.responses and not reference.missing
        return self.saturated / self.responses if known else None

    def view(self, reference: Reference) -> dict[str, Any]:
        """For people and programs; a figure is null where its groups or its reference are missing."""
        return {
            "groups": self.groups,
            "compared_groups": self.compared,
            "responses": self.responses,
            "spread": self.spread,
            "spread_ratio": reference.ratio(self.spread),
            "length_correlation": self.length_correlation,
            "truncation_rate": self.truncation_rate,
            "saturated_share": self.saturated_share(reference),
        }


class Comparison(NamedTuple):
    """Sums over groups that two versions scored: one's own scores and another's. Add up as well."""

    groups: int = 0
    ranked: int = 0  # those in which either version prefers any response to any other
    disagreement: float = 0.0  # Σ over them of the share of pairs ordered otherwise
    own_squares: float = 0.0  # Σ of the mean squared difference of two scores
    other_squares: float = 0.0
    disagreement_squares: float = 0.0  # Σ of those shares, squared

    @classmethod
    def of_group(cls, own: Sequence[float], other: Sequence[float]) -> Self:
        """Of one group of two or more responses."""
        share, pairs = disagreement(own, other), len(own) - 1
        own_squares, other_squares = (2 * sum(d * d for d in _centred(s)) / pairs for s in (own, other))
        return cls(1, share is not None, share or 0.0, own_squares, other_squares, (share or 0.0) ** 2)

    def plus(self, more: Comparison) -> Comparison:
        return Comparison(*map(add, self, more))

    @property
    def mean_disagreement(self) -> float | None:
        return self.disagreement / self.ranked if self.ranked else None

    @property
    def disagreement_error(self) -> float | None:
        """Standard error of the mean disagreement, over groups."""
        if self.ranked < 2:
            return None
        squares = self.disagreement_squares - self.disagreement**2 / self.ranked
        return math.sqrt(max(0.0, squares) / (self.ranked - 1) / self.ranked)

    @property
    def spread(self) -> float | None:
        return math.sqrt(self.own_squares / self.groups) if self.groups else None

    @property
    def other_spread(self) -> float | None:
        return math.sqrt(self.other_squares / self.groups) if self.groups else None

    def relative_spread(self, reference: Reference, other: Reference) -> float | None:
        """One's own spread by the other's on the same groups, each first divided by that of its own
        reference, as scales may differ. A spread of 0 is 0 in any unit; None where nothing is known."""
        if not self.own_squares and self.other_squares:
            return 0.0
        own_ratio, other_ratio = reference.ratio(self.spread), other.ratio(self.other_spread)
        return own_ratio / other_ratio if own_ratio is not None and other_ratio else None

    def view(self, reference: Reference, other: Reference) -> dict[str, Any]:
        return {
            "groups": self.groups,
            "disagreement": self.mean_disagreement,
            "disagreement_error": self.disagreement_error,
            "spread": self.spread,
            "spread_ratio": reference.ratio(self.spread),
            "other_spread": self.other_spread,
            "other_spread_ratio": other.ratio(self.other_spread),
            "relative_spread": self.relative_spread(reference, other),
        }


def disagreement(own: Sequence[float], other: Sequence[float]) -> float | None:
    """The share of a group's pairs that two versions order otherwise; a pair that one of them ties is
    half of one. Pairs that both tie, such as equal responses, say nothing; None where all are of these."""
    both = sorted(zip(own, other, strict=True))
    pairs, tied_by_both = _pairs([len(both)]), _pairs(Counter(both).values())
    if pairs == tied_by_both:
        return None
    tied_by_one = sum(_pairs(Counter(scores).values()) for scores in (own, other)) - 2 * tied_by_both
    reversed_pairs, below = 0, list[float]()  # the other's scores of what one scores lower, ascending
    for _, tied in groupby(both, key=lambda pair: pair[0]):
        scores = [score for _, score in tied]
        reversed_pairs += sum(len(below) - bisect_right(below, score) for score in scores)
        for score in scores:
            insort(below, score)
    return (reversed_pairs + tied_by_one / 2) / (pairs - tied_by_both)


class Compared:
    """Two versions on the same groups: since the beginning, and the newest groups."""

    def __init__(self, other: Reference, window_groups: int) -> None:
        self.other = other
        self.total = Comparison()
        self._window: deque[Comparison] = deque(maxlen=window_groups)

    def add(self, group: Comparison) -> None:
        self.total = self.total.plus(group)
        self._window.append(group)

    def window(self) -> Comparison:
        return Comparison(*_totals(self._window, Comparison()))


class VersionDrift:
    """The figures of one version: since this server began, of each policy step, of the newest groups."""

    def __init__(self, reference: Reference, window_groups: int) -> None:
        self.reference = reference
        self.total = Figures()
        self.steps: OrderedDict[PolicyStamp | None, Figures] = OrderedDict()  # seen last is last
        self.older, self.older_steps = Figures(), 0
        self.non_finite = 0  # requests that failed because a score was no number
        self.compared: dict[str, Compared] = {}
        self.recent = RecentScores()
        self._window_groups = window_groups
        self._window: deque[Figures] = deque(maxlen=window_groups)
        self._window_figures: Figures | None = Figures()  # None: to be added up anew

    def add(self, group: Figures, policy: PolicyStamp | None) -> None:
        self.total = self.total.plus(group)
        self._window.append(group)
        self._window_figures = None
        self.steps[policy] = self.steps.pop(policy, Figures()).plus(group)
        if len(self.steps) > KEEP_STEPS:
            _, oldest = self.steps.popitem(last=False)
            self.older, self.older_steps = self.older.plus(oldest), self.older_steps + 1

    def compare(self, other: str, manifest: Mapping[str, Any], group: Comparison) -> None:
        """Add a group that the version `other`, of `manifest`, scored as well."""
        if other not in self.compared:
            self.compared[other] = Compared(Reference.of(manifest), self._window_groups)
        self.compared[other].add(group)

    def window(self) -> Figures:
        """Of the newest groups. Added up anew, so that nothing is lost to what has left it."""
        if self._window_figures is None:
            self._window_figures = Figures(*_totals(self._window, Figures()))
        return self._window_figures


class Drift:
    """Every version's figures; those of the version that was scored longest ago make place."""

    def __init__(self, window_groups: int) -> None:
        self._window_groups = window_groups
        self._versions: OrderedDict[str, VersionDrift] = OrderedDict()

    def of(self, version: str, manifest: Mapping[str, Any]) -> VersionDrift:
        """The figures to add to."""
        if version not in self._versions:
            self._versions[version] = VersionDrift(Reference.of(manifest), self._window_groups)
            if len(self._versions) > KEEP_VERSIONS:
                self._versions.popitem(last=False)
        self._versions.move_to_end(version)
        return self._versions[version]

    def failed(self, version: str, manifest: Mapping[str, Any]) -> None:
        """Take note of a request that failed because a score was no number."""
        self.of(version, manifest).non_finite += 1

    def versions(self) -> Mapping[str, VersionDrift]:
        return self._versions


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _pairs(sizes: Iterable[int]) -> int:
    """How many pairs there are within sets of such sizes."""
    return sum(size * (size - 1) // 2 for size in sizes)


def _totals(window: Iterable[tuple[Any, ...]], empty: tuple[Any, ...]) -> Iterable[Any]:
    return map(sum, zip(empty, *window, strict=True))
