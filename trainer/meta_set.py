"""The logged samples that a run uses: the newest groups of two or more responses, unused or used by a former
run that this one names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from metarm.errors import NotEnoughDataError
from metarm.records import SampleGroup
from metarm.shared.reuse import Reuse
from metarm.shared.sample_log import Ranges, SampleLog, SampleRange
from trainer.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class MetaSet:
    """Groups of two or more responses, newest last, the range of all unused stream entries that the run takes,
    and their `counts` (metarm/shared/sample_log.py).

    `ranges`: where the groups lie in the log. `reused_from`: the former run that some of them are of; `counts`
    then has also the groups that were `reused`, and those of that run that were `trimmed` from the log.
    """

    groups: list[SampleGroup]
    first_entry: str
    last_entry: str
    counts: dict[str, int]
    ranges: Ranges = ()
    reused_from: str | None = None

    def record(self) -> dict[str, Any]:
        """For a manifest."""
        steps = [group.policy.step for group in self.groups if group.policy]
        return {
            "first_entry": self.first_entry,
            "last_entry": self.last_entry,
            "counts": self.counts,
            "policy_steps": [min(steps), max(steps)] if steps else None,
            "ranges": [asdict(part) for part in self.ranges],
            "reused_from": self.reused_from,
        }


def read_meta_set(sample_log: SampleLog, settings: TrainerSettings, reuse: Reuse | None = None) -> MetaSet:
    """Read the newest unused groups, which stay unacknowledged; with `reuse`, those that are newer than that
    run's, and as many of that run's as `max_groups` leaves room for. Raises NotEnoughDataError."""
    if reuse is not None:
        return _with_reused(sample_log, settings, reuse)
    unused = sample_log.read_unused(settings.max_groups)
    if len(unused.groups) < settings.min_groups:
        raise NotEnoughDataError(
            f"{len(unused.groups)} unused sample groups with two or more responses; "
            f"{settings.min_groups} are needed"
        )
    ranges = [SampleRange(unused.first_entry, unused.last_entry, len(unused.groups))]
    return MetaSet(unused.groups, unused.first_entry, unused.last_entry, unused.counts, ranges)


def _with_reused(sample_log: SampleLog, settings: TrainerSettings, reuse: Reuse) -> MetaSet:
    newer = sample_log.read_unused(settings.max_groups, reuse.ranges)
    room = settings.max_groups - len(newer.groups)
    groups, ranges, found = sample_log.read_again(reuse.ranges, room)
    reuse.check(found._replace(newer=len(newer.groups)), settings.min_groups)
    unused = sample_log.count_unused_of
    used_before = found.left - len(groups) - (unused(reuse.ranges) - unused(ranges))  # and not taken now
    if newer.groups:
        ranges = [*ranges, SampleRange(newer.first_entry, newer.last_entry, len(newer.groups))]
    passed_by = sample_log.read_unused(0).several - unused(ranges)
    counts = {
        **newer.counts,
        "used": len(groups) + len(newer.groups),
        "superseded": max(0, passed_by) + max(0, used_before),
        "reused": len(groups),
        "trimmed": found.trimmed,
    }
    # without newer entries the run uses nothing beyond the former one, which the log marks as used at most once
    last_entry = newer.last_entry or reuse.ranges[-1].last_entry
    first_entry = newer.first_entry or reuse.ranges[0].first_entry
    return MetaSet([*groups, *newer.groups], first_entry, last_entry, counts, ranges, reuse.job)
