"""Streaming figures of the scores that each version serves, from the definitions in metarm/figures.py.

Pure: no HTTP, no torch. All figures derive from sums over groups, so sets of groups can be merged by addition.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any, NamedTuple, Self

from metarm.figures import covariation, pair_orders, pearson, ratio, squared_difference, taken
from metarm.records import PolicyStamp
from service.oversight.recent_scores import RecentScores

KEEP_STEPS = 32  # policy steps of a version with their own figures; older ones are merged
KEEP_VERSIONS = 32
KEEP_OTHERS = 4  # versions that a version is compared with: its parent and the last shadows


@dataclass(frozen=True, slots=True)
class Reference:
    """A version's scores on held-out preferences, from its manifest. `missing` gives the reason where the
    manifest has none."""

    spread: float | None = None
    low: float = -math.inf
    high: float = math.inf
    missing: str | None = None
    pairs: int | None = None  # held-out pairs; None if the manifest does not say

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

    def spread_to_reference(self, spread: float | None) -> float | None:
        return ratio(spread, self.spread)


class Figures(NamedTuple):
    """Sums over groups that one version scored, and the figures that follow from them."""

    groups: int = 0
    responses: int = 0
    truncated: int = 0
    saturated: int = 0
    compared: int = 0  # groups of two or more distinct responses
    squares: float = 0.0  # Σ over compared groups of the mean of Δr²
    scores: float = 0.0  # Σ s², s a score less its group's mean
    lengths: float = 0.0  # Σ l², l a number of tokens less its group's mean
    products: float = 0.0  # Σ s·l

    @classmethod
    def of_group(
        cls,
        scores: Sequence[float],
        lengths: Sequence[int],
        truncated: int,
        reference: Reference,
        places: Sequence[int] | None = None,
    ) -> Self:
        """One group: a score and a number of tokens for each response, how many were truncated, and the
        `places` of the distinct responses (None: all differ)."""
        size = len(scores)
        saturated = sum(not reference.low <= score <= reference.high for score in scores)
        if places is not None:
            scores, lengths = taken(scores, places), taken(lengths, places)
        if len(scores) < 2:
            return cls(1, size, truncated, saturated)
        sums = covariation(scores, lengths)
        return cls(1, size, truncated, saturated, 1, squared_difference(scores), *sums)

    def plus(self, other: Figures) -> Figures:
        return Figures(*map(add, self, other))

    @property
    def spread(self) -> float | None:
        return math.sqrt(self.squares / self.compared) if self.compared else None

    @property
    def length_correlation(self) -> float | None:
        return pearson(self.scores, self.lengths, self.products)

    @property
    def truncation_rate(self) -> float | None:
        return self.truncated / self.responses if self.responses else None

    def saturated_share(self, reference: Reference) -> float | None:
        known = self.responses and not reference.missing
        return self.saturated / self.responses if known else None

    def view(self, reference: Reference) -> dict[str, Any]:
        """For GET /drift. A figure is None if its groups or its reference are missing."""
        return {
            "groups": self.groups,
            "compared_groups": self.compared,
            "responses": self.responses,
            "spread": self.spread,
            "spread_to_reference": reference.spread_to_reference(self.spread),
            "length_correlation": self.length_correlation,
            "truncation_rate": self.truncation_rate,
            "saturated_share": self.saturated_share(reference),
        }


class Comparison(NamedTuple):
    """Sums over groups of two or more distinct responses that two versions scored (`own` and `other`), and the
    figures that follow from them."""

    groups: int = 0
    ranked: int = 0  # groups in which either version orders any pair
    disagreement: float = 0.0  # Σ over ranked groups of the share of pairs ordered differently
    own_squares: float = 0.0  # Σ of the mean of Δr²
    other_squares: float = 0.0
    disagreement_squares: float = 0.0  # Σ of the squares of these shares

    @classmethod
    def of_group(cls, own: Sequence[float], other: Sequence[float]) -> Self:
        """The distinct responses of one group, two or more."""
        share = pair_orders(own, other).disagreement
        squares = squared_difference(own), squared_difference(other)
        return cls(1, share is not None, share or 0.0, *squares, (share or 0.0) ** 2)

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

    def spread_to_other(self, reference: Reference, other: Reference) -> float | None:
        """The ratio of the two spreads, each relative to its version's reference, because the scales may
        differ. None if a reference is missing, unless the own spread is 0."""
        if not self.own_squares and self.other_squares:
            return 0.0
        own_ratio = reference.spread_to_reference(self.spread)
        return ratio(own_ratio, other.spread_to_reference(self.other_spread))

    def view(self, reference: Reference, other: Reference) -> dict[str, Any]:
        return {
            "groups": self.groups,
            "disagreement": self.mean_disagreement,
            "disagreement_error": self.disagreement_error,
            "spread": self.spread,
            "spread_to_reference": reference.spread_to_reference(self.spread),
            "other_spread": self.other_spread,
            "other_spread_to_reference": other.spread_to_reference(self.other_spread),
            "spread_to_other": self.spread_to_other(reference, other),
        }


class Compared:
    """Two versions on the same groups: all groups since this server began, and the newest."""

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
    """The figures of one version: of all groups since this server began, of the first and the newest of them,
    and of each policy step."""

    def __init__(self, reference: Reference, window_groups: int) -> None:
        self.reference = reference
        self.total = Figures()
        self.first = Figures()  # the first window: it ends once it is complete
        self.steps: OrderedDict[PolicyStamp | None, Figures] = OrderedDict()  # seen last is last
        self.older, self.older_steps = Figures(), 0
        self.non_finite = 0  # requests that failed on a non-finite score
        self.compared: OrderedDict[str, Compared] = OrderedDict()  # compared last is last
        self.recent = RecentScores()
        self._window_groups = window_groups
        self._window: deque[Figures] = deque(maxlen=window_groups)
        self._window_figures: Figures | None = Figures()  # None: not computed since the last group

    def add(self, group: Figures, policy: PolicyStamp | None) -> None:
        self.total = self.total.plus(group)
        if not self.complete(self.first):
            self.first = self.first.plus(group)
        self._window.append(group)
        self._window_figures = None
        self.steps[policy] = self.steps.pop(policy, Figures()).plus(group)
        if len(self.steps) > KEEP_STEPS:
            _, oldest = self.steps.popitem(last=False)
            self.older, self.older_steps = self.older.plus(oldest), self.older_steps + 1

    def compare(self, other: str, manifest: Mapping[str, Any], group: Comparison) -> None:
        """Add a group that the version `other`, whose manifest is given, scored too."""
        if other not in self.compared:
            self.compared[other] = Compared(Reference.of(manifest), self._window_groups)
            if len(self.compared) > KEEP_OTHERS:
                self.compared.popitem(last=False)
        self.compared.move_to_end(other)
        self.compared[other].add(group)

    def complete(self, window: Figures) -> bool:
        """Whether a window has enough groups for a decision, half of them of two or more distinct responses."""
        return window.groups >= self._window_groups and 2 * window.compared >= self._window_groups

    def window(self) -> Figures:
        """The figures of the newest groups, summed anew: subtracting old groups would lose precision."""
        if self._window_figures is None:
            self._window_figures = Figures(*_totals(self._window, Figures()))
        return self._window_figures


class Drift:
    """The figures of the KEEP_VERSIONS versions that scored last."""

    def __init__(self, window_groups: int) -> None:
        self._window_groups = window_groups
        self._versions: OrderedDict[str, VersionDrift] = OrderedDict()

    def of(self, version: str, manifest: Mapping[str, Any]) -> VersionDrift:
        """The figures of `version`, created if there are none yet."""
        if version not in self._versions:
            self._versions[version] = VersionDrift(Reference.of(manifest), self._window_groups)
            if len(self._versions) > KEEP_VERSIONS:
                self._versions.popitem(last=False)
        self._versions.move_to_end(version)
        return self._versions[version]

    def failed(self, version: str, manifest: Mapping[str, Any]) -> None:
        """Count a request that failed on a non-finite score."""
        self.of(version, manifest).non_finite += 1

    def versions(self) -> Mapping[str, VersionDrift]:
        return self._versions


def _totals(window: Iterable[tuple[Any, ...]], empty: tuple[Any, ...]) -> Iterable[Any]:
    return map(sum, zip(empty, *window, strict=True))
