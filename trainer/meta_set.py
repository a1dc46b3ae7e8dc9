"""The logged samples that a run uses: the newest groups of two or more responses."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from metarm.errors import NotEnoughDataError
from metarm.records import SampleGroup
from metarm.shared.sample_log import SampleLog
from trainer.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class MetaSet:
    """Groups of two or more responses, newest last, and the range of stream entries they were read from.

    `counts` of the entries: used, superseded (older than the newest `max_groups`), single_response, unreadable
    (trimmed meanwhile, or written by another codec).
    """

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
    """Read all unused entries, which stay unacknowledged. Raises NotEnoughDataError."""
    newest: deque[SampleGroup] = deque(maxlen=settings.max_groups)
    seen: list[str] = []
    counts = {"used": 0, "superseded": 0, "single_response": 0, "unreadable": 0}
    for entry in sample_log.read_unused():
        seen.append(entry.id)
        if entry.group is None:
            counts["unreadable"] += 1
        elif len(entry.group.responses) < 2:
            counts["single_response"] += 1
        else:
            counts["superseded"] += len(newest) == settings.max_groups
            newest.append(entry.group)
    if len(newest) < settings.min_groups:
        raise NotEnoughDataError(
            f"{len(newest)} unused sample groups with two or more responses; {settings.min_groups} are needed"
        )
    counts["used"] = len(newest)
    return MetaSet(list(newest), seen[0], seen[-1], counts)
