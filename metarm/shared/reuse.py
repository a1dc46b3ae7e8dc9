"""Reuse: the samples of a run that has ended, for another run (POST /retrain with `reuse`)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from metarm.errors import JobConflictError, MetaRMError, NotEnoughDataError
from metarm.records import FINISHED
from metarm.shared.jobs import Job, JobBoard
from metarm.shared.sample_log import Ranges, Reusable, SampleRange
from metarm.store.versions import VersionStore


@dataclass(frozen=True, slots=True)
class Reuse:
    """The job whose samples are used again, and their ranges in the sample log, at least one."""

    job: str
    ranges: Ranges

    @classmethod
    def of(cls, job_id: str, jobs: JobBoard, store: VersionStore) -> Reuse:
        """Raises UnknownJobError, JobConflictError for a job that has not ended, and NotEnoughDataError for one
        that ended before it had read samples. Raises redis.RedisError."""
        job = jobs.get(job_id)
        if job.status not in FINISHED:
            raise JobConflictError(
                f"{job_id} is still {job.status}: reuse its samples after its end", job=job_id
            )
        ranges = [SampleRange(**record) for record in job.ranges or _from_manifest(job, store)]
        if not ranges:
            raise NotEnoughDataError(f"{job_id} has no recorded samples: it ended before it had read any")
        return cls(job_id, ranges)

    def check(self, found: Reusable, needed: int) -> None:
        """Raises NotEnoughDataError where nothing of the former run is left, or too little in all."""
        groups, former = found.left + found.newer, found.left + found.trimmed
        if found.left and groups >= needed:
            return
        message = (
            f"{found.left} of the {former} sample groups that {self.job} used are still in the log "
            f"({found.trimmed} were trimmed: METARM_LOG_MAX_GROUPS, METARM_LOG_MAX_AGE_S), and {found.newer} "
            "newer groups are unused"
        )
        few = f"; {needed} are needed" if groups < needed else ": nothing is left to reuse"
        raise NotEnoughDataError(
            message + few,
            have={"groups": groups, "reused": found.left, "trimmed": found.trimmed},
            need={"groups": needed},
        )


def _from_manifest(job: Job, store: VersionStore) -> list[dict[str, Any]]:
    """The one range of a job of an earlier release, whose record has none: its candidate's manifest has it."""
    if job.candidate is None:
        return []
    with contextlib.suppress(MetaRMError, KeyError, TypeError):
        samples = store.manifest(job.candidate)["samples"]
        used = int(samples["counts"]["used"])
        return [{"first_entry": samples["first_entry"], "last_entry": samples["last_entry"], "groups": used}]
    return []
