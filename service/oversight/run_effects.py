"""Whether a run that drift started helped: its version is served and separates responses better. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from metarm.shared.jobs import Job

RAISED = 1.1  # least ratio of the new version's first window, over the ratio that started the run


@dataclass(frozen=True, slots=True)
class Effect:
    helped: bool
    reason: str


def effect_of(
    job: Job, ratio_of: Callable[[str], float | None], withdrawn: Callable[[], Collection[str]]
) -> Effect | None:
    """None while it is unknown, and for a run that was cancelled. `ratio_of` returns a version's spread ratio
    over its first window, `withdrawn` the versions that the store's pointer left for an older one."""
    if job.status == "failed":
        return Effect(False, f"it failed: {(job.error or {}).get('message', 'no reason given')}")
    if job.status == "rejected":
        return Effect(False, f"the gate rejected {job.candidate}")
    if job.status != "published" or job.candidate is None:
        return None
    if job.candidate in withdrawn():
        return Effect(False, f"{job.candidate} was rolled back")
    before, after = (job.trigger or {}).get("spread_to_reference"), ratio_of(job.candidate)
    if before is None or after is None:
        return None
    raised = f"the spread ratio was {before:.3f}, and {after:.3f} over the first groups of {job.candidate}"
    if after > RAISED * before:
        return Effect(True, raised)
    return Effect(False, f"{raised}: not raised by {RAISED - 1:.0%}")
