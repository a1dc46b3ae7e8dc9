"""What works and what does not: Redis, the trainer and its job, the version that should serve."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from metarm.errors import UnknownJobError
from metarm.shared.jobs import Job, JobBoard
from metarm.shared.presence import TrainerPresence
from service.versions.labels import LabelWatch
from service.versions.swapper import Swapper

EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found: parts that do not work and why, the live trainer's word, the job that is queued or
    running. Trainer and job are None as well where Redis does not answer."""

    redis: bool
    trainer: Mapping[str, Any] | None
    job: Job | None
    degraded: tuple[tuple[str, str], ...]


class Condition:
    """Examines the service, on request or now and then."""

    def __init__(self, jobs: JobBoard, presence: TrainerPresence, swapper: Swapper, labels: LabelWatch) -> None:
        self._jobs = jobs
        self._presence = presence
        self._swapper = swapper
        self._labels = labels
        self.last: Examined | None = None

    async def look(self) -> None:
        """Renew `last`."""
        self.last = await asyncio.to_thread(self.examine)

    def examine(self) -> Examined:
        """As things are now. Blocking."""
        found: list[tuple[str, str]] = []
        trainer, job, answers = None, None, True
        try:
            trainer = self._presence.status()
            if trainer is None:
                found.append(("trainer", "no trainer is running: scoring works, retraining does not"))
            job = self._active()
        except redis.RedisError as error:
            answers = False
            reason = f"{error}: scoring works, samples are buffered, retraining does not work"
            found.append(("redis", reason))
        refused, labels = self._swapper.refused, self._labels.error
        if refused:
            found.append(("version", f"{refused.name} was refused: {refused.reason}"))
        if labels:
            found.append(("version", f"the labels stay as they were: {labels}"))
        return Examined(answers, trainer, job, tuple(found))

    def _active(self) -> Job | None:
        try:
            return self._jobs.active()
        except UnknownJobError:  # it ended between the two questions this takes
            return None
