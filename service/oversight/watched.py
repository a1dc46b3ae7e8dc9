"""A version under watch: its figures, compared with its parent's, and every reason to roll it back. Pure."""

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
    """A version, its counts when the watch began, and its comparison with its parent on a `share`
    of prompts."""

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
    """Every reason to roll back; a comparison counts from `watch_min_groups` groups on."""
    found = []
    if watched.non_finite:
        found.append(f"{watched.non_finite} requests failed with a non-finite score")
    if watched.compared.groups >= rules.watch_min_groups:
        found += [*_spread(watched, rules)]
    if watched.compared.ranked >= rules.watch_min_groups:
        found += [*_order(watched, rules)]
    return found


def _spread(watched: Watched, rules: ServiceSettings) -> Iterator[str]:
    compared = watched.compared
    to_parent = compared.spread_to_other(watched.drift.reference, watched.reference)
    if to_parent is not None and to_parent < rules.watch_min_spread_ratio:
        yield (
            f"its spread ratio is {to_parent:.3f} of its parent's on {compared.groups} groups; "
            f"{rules.watch_min_spread_ratio} is the least"
        )


def _order(watched: Watched, rules: ServiceSettings) -> Iterator[str]:
    """Disagreement with the parent on the order of pairs. A retrain is meant to change the order where the
    parent's scores barely differ. Where they differ clearly, versions trained on the same preferences agree."""
    compared = watched.compared
    disagreement, error = compared.mean_disagreement, compared.disagreement_error
    if disagreement is None:
        return
    differs = (
        f"it orders {disagreement:.3f} of the pairs in {compared.ranked} groups differently from its parent"
    )
    if disagreement > rules.watch_max_disagreement:
        yield f"{differs}; {rules.watch_max_disagreement} is the most"
        return
    of_parent = watched.reference.spread_to_reference(compared.other_spread)
    clear = of_parent is not None and of_parent >= rules.watch_clear_spread_ratio
    most = rules.watch_max_clear_disagreement
    if clear and error is not None and disagreement - SURE * error > most:
        yield (
            f"{differs}, which still tells them apart (spread ratio {of_parent:.3f}); "
            f"{most} is the most, and {SURE * error:.3f} may be chance"
        )
