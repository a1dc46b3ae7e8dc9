"""Retrain jobs: asked for by the service, run by the trainer, shared through Redis.

At most one job is queued or running. Its record outlives both processes, so a trainer that
crashed finds its job again, and whoever polls learns how it ended.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
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
    TRACKERS_FAILED,
    TRAINER,
    cancel_key,
    job_key,
)

KEEP_FINISHED_S = 30 * 86400

# Take the one slot and write the record together. KEYS: slot, record, index. ARGV: id, record, time.
CREATE = """
local running = redis.call('GET', KEYS[1])
if running then return running end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
return false
"""

# Write the last state; free the slot and count the end, if this job still holds it. KEYS: slot, record, counts.
# ARGV: id, record, lifetime, status.
FINISH = """
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
    redis.call('HINCRBY', KEYS[3], ARGV[4], 1)
end
return 1
"""

# Renew or take the trainer's place: only its holder may overwrite it before it expires.
HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and cjson.decode(holder)['holder'] ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

# Free the trainer's place, if it is still ours.
RELEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and cjson.decode(holder)['holder'] == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One retrain. `options` are what the caller asked for, over the trainer's defaults; `attempts`
    counts how often a trainer has started it; `created` is Unix time in seconds; `trigger` holds the figures
    that asked for it where nobody did; `curve` is how it learns, in a bounded number of points
    (trainer/run_curve.py)."""

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

    def with_changes(self, **changes: Any) -> Job:
        return replace(self, **changes)


class JobBoard:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def create(self, options: Mapping[str, Any], trigger: Mapping[str, Any] | None = None) -> Job:
        """Queue a job; JobConflictError names the one that is queued or running already."""
        id_ = f"job-{uuid.uuid4().hex[:12]}"
        job = Job(id=id_, status="queued", created=time.time(), options=options, trigger=trigger)
        keys = [ACTIVE_JOB, job_key(job.id), JOBS]
        running = cast("bytes | None", self._redis.eval(CREATE, 3, *keys, job.id, _dump(job), job.created))
        if running is not None:
            name = running.decode()
            raise JobConflictError(f"{name} is still queued or running; cancel it or wait for it", job=name)
        return job

    def get(self, job_id: str) -> Job:
        raw = cast("bytes | None", self._redis.get(job_key(job_id)))
        if raw is None:
            raise UnknownJobError(f"no retrain job {job_id!r} is known")
        return Job(**orjson.loads(raw))

    def active(self) -> Job | None:
        """The job that is queued or running, if any."""
        job_id = cast("bytes | None", self._redis.get(ACTIVE_JOB))
        return self.get(job_id.decode()) if job_id else None

    def recent(self, count: int) -> list[Job]:
        """The last `count` jobs, newest first; ids whose record has expired are forgotten."""
        ids = cast("list[bytes]", self._redis.zrevrange(JOBS, 0, count - 1))
        if not ids:
            return []
        records = cast("list[bytes | None]", self._redis.mget([job_key(job_id.decode()) for job_id in ids]))
        found = dict(zip(ids, records, strict=True))
        forgotten = [job_id for job_id, record in found.items() if record is None]
        if forgotten:
            self._redis.zrem(JOBS, *forgotten)
        return [Job(**orjson.loads(record)) for record in records if record is not None]

    def save(self, job: Job) -> Job:
        """Store the state of an unfinished job."""
        self._redis.set(job_key(job.id), _dump(job))
        return job

    def finish(self, job: Job, status: JobStatus, **changes: Any) -> Job:
        """Store a job's last state and free the slot for the next one."""
        last = job.with_changes(status=status, finished=time.time(), **changes)
        keys = [ACTIVE_JOB, job_key(job.id), ENDED_JOBS]
        self._redis.eval(FINISH, 3, *keys, job.id, _dump(last), KEEP_FINISHED_S, status)
        return last

    def ended(self) -> dict[str, int]:
        """How many jobs have ended so far, by status."""
        return self._counts(ENDED_JOBS)

    def tracker_failed(self, tracker: str) -> None:
        """Count a run that goes on without one of its trackers."""
        self._redis.hincrby(TRACKERS_FAILED, tracker, 1)

    def tracker_failures(self) -> dict[str, int]:
        """How many did, by tracker."""
        return self._counts(TRACKERS_FAILED)

    def request_cancel(self, job_id: str) -> Job:
        """Ask a job to stop. The trainer looks before every step; a finished job stays as it is."""
        job = self.get(job_id)
        if job.status not in FINISHED:
            self._redis.set(cancel_key(job_id), "1", ex=86400)
        return job

    def cancel_requested(self, job_id: str) -> bool:
        return bool(self._redis.exists(cancel_key(job_id)))

    def hold_trainer(self, holder: str, status: Mapping[str, Any], lifetime_ms: int) -> bool:
        """Say that trainer `holder` is alive, for `lifetime_ms`; False while another one is."""
        value = orjson.dumps({"holder": holder, **status})
        return bool(self._redis.eval(HOLD, 1, TRAINER, holder, value, lifetime_ms))

    def release_trainer(self, holder: str) -> None:
        self._redis.eval(RELEASE, 1, TRAINER, holder)

    def trainer(self) -> dict[str, Any] | None:
        """What the live trainer says of itself; None where none is running."""
        raw = cast("bytes | None", self._redis.get(TRAINER))
        return cast("dict[str, Any]", orjson.loads(raw)) if raw else None

    def _counts(self, key: str) -> dict[str, int]:
        counts = cast("dict[bytes, bytes]", self._redis.hgetall(key))
        return {name.decode(): int(count) for name, count in counts.items()}


def public_view(job: Job) -> dict[str, Any]:
    """The job as the HTTP API shows it."""
    view = asdict(job)
    view["job"] = view.pop("id")
    return view


def _dump(job: Job) -> bytes:
    return orjson.dumps(asdict(job))
