"""The server's health: Redis, the trainer and its job, the version that should serve, the loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from metarm.runtime.loops import Loops
from metarm.shared.jobs import Job, JobBoard
from metarm.shared.presence import TrainerPresence

REFRESH_S = 2.0
Part = tuple[str, str]  # a part of the system that does not work, and why


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The parts that do not work, except the version, the live trainer's status, and the job that is queued or
    running. Trainer and job are also None while Redis does not answer."""

    redis: bool
    trainer: Mapping[str, Any] | None
    job: Job | None
    degraded: tuple[Part, ...]


class HealthMonitor:
    """Examines the server on request, and every REFRESH_S seconds for `last`."""

    def __init__(
        self, jobs: JobBoard, presence: TrainerPresence, version_fault: Callable[[], str | None], loops: Loops
    ) -> None:
        """`version_fault` says why the version that should serve does not."""
        self._jobs = jobs
        self._presence = presence
        self._version_fault = version_fault
        self._loops = loops
        self.last: HealthReport | None = None

    async def refresh(self) -> None:
        """Renew `last`."""
        self.last = await asyncio.to_thread(self.report)

    def degraded(self, report: HealthReport | None) -> list[Part]:
        """The parts that do not work: the version as it is now, the others as in `report`."""
        fault = self._version_fault()
        return [*([("version", fault)] if fault else []), *(report.degraded if report else ())]

    def report(self) -> HealthReport:
        """The state now. Blocking."""
        try:
            trainer, job = self._presence.status(), self._jobs.active()
        except redis.RedisError as error:
            reason = f"{error}: scoring works, samples are buffered, retraining does not work"
            return HealthReport(False, None, None, (("redis", reason), *self._own_faults(redis_down=True)))
        except Exception as error:  # noqa: BLE001 (reported: a damaged record must not hide the other parts)
            reason = f"its state in Redis cannot be read: {type(error).__name__}: {error}"
            return HealthReport(True, None, None, (("trainer", reason), *self._own_faults(redis_down=False)))
        found = list(self._own_faults(redis_down=False))
        if trainer is None:
            found.insert(0, ("trainer", "no trainer is running: scoring works, retraining does not"))
        else:
            found += [("loop", f"the trainer's {fault}") for fault in trainer.get("failing", [])]
        return HealthReport(True, trainer, job, tuple(found))

    def _own_faults(self, *, redis_down: bool) -> Iterator[Part]:
        """`redis_down`: Redis' own fault is reported already, so loops that fail because of it are left out.
        One that answers but takes no writes (full, or a replica) shows in those loops alone."""
        for loop in self._loops.failing():
            if not (redis_down and isinstance(loop.error, redis.RedisError)):
                yield "loop", loop.fault
