"""A version under watch: what it has shown beside its parent, and every reason to roll it back. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from service.oversight.drift import Comparison, Reference, VersionDrift
from service.settings import ServiceSettings

SURE = 2.0  # standard errors


@dataclass(slots=True)
class Watched:
    """Its counts when the watch began, and its comparisons with its parent since, on a `share` of prompts."""

    version: str
    parent: str
    share: float
    drift: VersionDrift
    reference: Reference  # the parent's
    groups_before: int
    non_finite_before: int
    began: float = field(default_factory=time.time)
    compared: Comparison = field(default_factory=Comparison)
    failed: str | None = None  # why it could not be rolled back
    retry_at: float = 0.0

    @property
    def groups(self) -> int:
        return self.drift.total.groups - self.groups_before

    @property
    def non_finite(self) -> int:
        return self.drift.non_finite - self.non_finite_before

    def figures(self) -> dict[str, Any]:
        return {
            "answered_groups": self.groups,
            "non_finite": self.non_finite,
            "compared": self.compared.view(self.drift.reference, self.reference),
            "spread_not_compared": self.drift.reference.missing or self.reference.missing,
        }


def breaches(watched: Watched, rules: ServiceSettings) -> list[str]:
    """Every reason to roll back, as far as there are groups enough to say so."""
    found = []
    if watched.non_finite:
        found.append(f"{watched.non_finite} requests failed with a score that is not a finite number")
    if watched.compared.groups >= rules.watch_min_groups:
        found += [*_spread(watched, rules)]
    if watched.compared.ranked >= rules.watch_min_groups:
        found += [*_order(watched, rules)]
    return found


def _spread(watched: Watched, rules: ServiceSettings) -> Iterator[str]:
    compared = watched.compared
    relative = compared.relative_spread(watched.drift.reference, watched.reference)
    if relative is not None and relative < rules.watch_min_spread_ratio:
        yield (
            f"its spread ratio is {relative:.3f} of its parent's on {compared.groups} groups; "
            f"{rules.watch_min_spread_ratio} is the least"
        )


def _order(watched: Watched, rules: ServiceSettings) -> Iterator[str]:
    """A retrain is meant to move the ranking where the parent has come to tell little apart; where it still
    does, versions made of the same preferences agree."""
    compared = watched.compared
    disagreement, error = compared.mean_disagreement, compared.disagreement_error
    if disagreement is None:
        return
    otherwise = (
        f"it orders {disagreement:.3f} of the pairs in {compared.ranked} groups otherwise than its parent"
    )
    if disagreement > rules.watch_max_disagreement:
        yield f"{otherwise}; {rules.watch_max_disagreement} is the most"
        return
    ratio, most = watched.reference.ratio(compared.other_spread), rules.watch_max_clear_disagreement
    clear = ratio is not None and ratio >= rules.watch_clear_spread_ratio
    if clear and error is not None and disagreement - SURE * error > most:
        yield (
            f"{otherwise}, which still tells them apart (spread ratio {ratio:.3f}); "
            f"{most} is the most, and {SURE * error:.3f} may be chance"
        )
