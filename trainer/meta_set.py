"""The logged samples that a run uses: the newest groups of two or more responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metarm.errors import NotEnoughDataError
from metarm.records import SampleGroup
from metarm.shared.sample_log import SampleLog
from trainer.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class MetaSet:
    """Groups of two or more responses, newest last, the range of all unused stream entries, and their `counts`
    (metarm/shared/sample_log.py)."""

    groups: list[SampleGroup]
    first_entry: str
    last_entry: str
    counts: dict[str, int]

    def record(self) -> dict[str, Any]:
        """For a manifest."""
        steps = [group.policy.step for group in self.groups if group.policy]
        return {
            "first_entry": self.first_entry,
            "last_entry": self.last_entry,
            "counts": self.counts,
            "policy_steps": [min(steps), max(steps)] if steps else None,
        }


def read_meta_set(sample_log: SampleLog, settings: TrainerSettings) -> MetaSet:
    """Read the newest unused groups, which stay unacknowledged. Raises NotEnoughDataError."""
    unused = sample_log.read_unused(settings.max_groups)
    if len(unused.groups) < settings.min_groups:
        raise NotEnoughDataError(
            f"{len(unused.groups)} unused sample groups with two or more responses; "
            f"{settings.min_groups} are needed"
        )
    return MetaSet(unused.groups, unused.first_entry, unused.last_entry, unused.counts)
