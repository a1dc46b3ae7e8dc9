"""Retrain jobs in Redis: the service queues them, the trainer runs them.

At most one job is queued or running. Its record outlives both processes: after a crash the trainer finds its
job, and a client that polls sees how it ended.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import orjson
import redis

from metarm.errors import JobConflictError, UnknownJobError
from metarm.records import FINISHED, JobStatus
from metarm.shared.keys import (
    ACTIVE_JOB,
    ENDED_JOBS,
    JOBS,
    RETRAIN_COOLDOWN,
    RETRAIN_UNHELPFUL,
    TRACKERS_FAILED,
    cancel_key,
    job_key,
)
from metarm.shared.scripts import load_script

KEEP_FINISHED_S = 30 * 86400
KEEP_JOBS = 1000  # the newest
KEEP_CANCEL_S = 86400
MOST_DOUBLINGS = 4  # of the pause after runs that did not help: at most 16 times as long


@dataclass(frozen=True, slots=True)
class Job:
    """One retrain run.

    `options` are the request's changes to the trainer's defaults. `attempts` counts how often a trainer has
    started it. `created` and `finished` are Unix time in seconds. `error` is MetaRMError.to_wire(). `trigger`
    holds the drift figures that started it; None if a client asked for it. `curve` is a bounded learning
    curve (trainer/run_curve.py). `ranges` say where its samples lie in the log, once it has read them
    (SampleRange, as records).
    """

    id: str
    status: JobStatus
    created: float
    options: Mapping[str, Any]
    attempts: int = 0
    progress: Mapping[str, Any] = field(default_factory=lambda: {"step": 0, "steps": None})
    candidate: str | None = None
    verdict: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    samples: Mapping[str, int] | None = None
    finished: float | None = None
    trigger: Mapping[str, Any] | None = None
    curve: Mapping[str, Any] | None = None
    ranges: Sequence[Mapping[str, Any]] | None = None

    def with_changes(self, **changes: Any) -> Job:
        return replace(self, **changes)


class JobBoard:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._script = load_script(client, "jobs")

    def create(self, options: Mapping[str, Any], trigger: Mapping[str, Any] | None = None) -> Job:
        """Queue a job. Raises JobConflictError, which names the job that is queued or running."""
        id_ = f"job-{uuid.uuid4().hex[:12]}"
        job = Job(id=id_, status="queued", created=time.time(), options=options, trigger=trigger)
        keys = [ACTIVE_JOB, job_key(job.id), JOBS]
        running = cast(
            "bytes | None", self._script(keys, ["create", job.id, _dump(job), job.created, KEEP_JOBS])
        )
        if running is not None:
            name = running.decode()
            raise JobConflictError(
                f"{name} is still queued or running: cancel it or wait for its end", job=name
            )
        return job

    def get(self, job_id: str) -> Job:
        """Raises UnknownJobError."""
        is_id = ":" not in job_id  # else the key may be another one's, such as of a request to cancel
        raw = cast("bytes | None", self._redis.get(job_key(job_id))) if is_id else None
        if raw is None:
            raise UnknownJobError(
                f"there is no retrain job {job_id!r}: the newest {KEEP_JOBS} are kept, for "
                f"{KEEP_FINISHED_S // 86400} days after their end"
            )
        return Job(**orjson.loads(raw))

    def active(self) -> Job | None:
        """The job that is queued or running, if any. None also where its record is gone."""
        job_id = cast("bytes | None", self._redis.get(ACTIVE_JOB))
        record = cast("bytes | None", self._redis.get(job_key(job_id.decode()))) if job_id else None
        return Job(**orjson.loads(record)) if record else None

    def recent(self, count: int) -> list[Job]:
        """The last `count` jobs, newest first. Drops the ids of jobs whose record has expired."""
        ids = cast("list[bytes]", self._redis.zrevrange(JOBS, 0, count - 1))
        if not ids:
            return []
        records = cast("list[bytes | None]", self._redis.mget([job_key(job_id.decode()) for job_id in ids]))
        found = dict(zip(ids, records, strict=True))
        expired = [job_id for job_id, record in found.items() if record is None]
        if expired:
            self._redis.zrem(JOBS, *expired)
        return [Job(**orjson.loads(record)) for record in records if record is not None]

    def save(self, job: Job) -> Job:
        """Store the state of an unfinished job."""
        self._redis.set(job_key(job.id), _dump(job))
        return job

    def finish(self, job: Job, status: JobStatus, **changes: Any) -> Job:
        """Store a job's last state and free the slot for the next one."""
        last = job.with_changes(status=status, finished=time.time(), **changes)
        keys = [ACTIVE_JOB, job_key(job.id), ENDED_JOBS]
        self._script(keys, ["finish", job.id, _dump(last), KEEP_FINISHED_S, status])
        return last

    def ended(self) -> dict[str, int]:
        """The number of jobs that have ended, by status."""
        return self._counts(ENDED_JOBS)

    def tracker_failed(self, tracker: str) -> None:
        """Count a run that continues without one of its trackers."""
        self._redis.hincrby(TRACKERS_FAILED, tracker, 1)

    def tracker_failures(self) -> dict[str, int]:
        """The number of such runs, by tracker."""
        return self._counts(TRACKERS_FAILED)

    def request_cancel(self, job_id: str) -> Job:
        """Ask a job to stop. The trainer checks before every step; a finished job does not change."""
        job = self.get(job_id)
        if job.status not in FINISHED:
            self._redis.set(cancel_key(job_id), "1", ex=KEEP_CANCEL_S)
        return job

    def cancel_requested(self, job_id: str) -> bool:
        return bool(self._redis.exists(cancel_key(job_id)))

    def _counts(self, key: str) -> dict[str, int]:
        counts = cast("dict[bytes, bytes]", self._redis.hgetall(key))
        return {name.decode(): int(count) for name, count in counts.items()}


@dataclass(frozen=True, slots=True)
class JudgedRuns:
    """The last `job` that drift started and whose effect is known, the `reason`, and how many in a row up to it
    were `unhelpful`."""

    job: str | None = None
    unhelpful: int = 0
    reason: str = ""


class RetrainCooldown:
    """The pause between two retrains that drift starts, one for all servers. Each run in a row that did not
    help doubles it, at most MOST_DOUBLINGS times. Thread-safe. Every method that needs Redis raises
    redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis, seconds: int) -> None:
        self._redis = client
        self._seconds = seconds
        self._script = load_script(client, "cooldown")

    def wait_s(self, unhelpful: int) -> int:
        """Seconds from the start of a run to that of the next, after this number of runs that did not help."""
        return self._seconds << min(unhelpful, MOST_DOUBLINGS)

    def left_s(self) -> int:
        """Seconds until the pause ends; 0 if there is none."""
        return max(0, self._redis.ttl(RETRAIN_COOLDOWN))

    def begin(self, version: str) -> bool:
        """Start a pause because of the drift of `version`; False if another server has started one."""
        wait_s = self.wait_s(self.judged().unhelpful)
        return bool(self._redis.set(RETRAIN_COOLDOWN, version, nx=True, ex=wait_s))

    def cancel(self) -> None:
        """End the pause that this server has just started, because no retrain followed."""
        self._redis.delete(RETRAIN_COOLDOWN)

    def judged(self) -> JudgedRuns:
        found = cast("dict[bytes, bytes]", self._redis.hgetall(RETRAIN_UNHELPFUL))
        if not found:
            return JudgedRuns()
        return JudgedRuns(found[b"job"].decode(), int(found[b"unhelpful"]), found[b"reason"].decode())

    def judge(self, job: Job, version: str, helped: bool, reason: str) -> int | None:
        """Record whether `job`, which the drift of `version` started, helped, and set the pause from its start
        on. Returns the number of runs in a row that did not help; None if this is recorded already. A run that
        helped can still turn out not to have."""
        passed_s = max(0.0, time.time() - job.created)
        keys = [RETRAIN_UNHELPFUL, RETRAIN_COOLDOWN]
        run = (job.id, repr(job.created), int(helped), reason, version)
        return cast("int | None", self._script(keys, [*run, passed_s, self._seconds, MOST_DOUBLINGS]))


def public_view(job: Job) -> dict[str, Any]:
    """The job as the HTTP API shows it."""
    view = asdict(job)
    view["job"] = view.pop("id")
    return view


def _dump(job: Job) -> bytes:
    return orjson.dumps(asdict(job))
