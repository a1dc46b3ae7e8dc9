"""Starts retrain jobs: on request (POST /retrain) or because of drift (auto_retrain). Blocking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarm.errors import NotEnoughDataError, TrainerUnavailableError
from metarm.shared.jobs import Job, JobBoard
from metarm.shared.presence import TrainerPresence
from metarm.shared.reuse import Reuse
from metarm.shared.sample_log import SampleLog
from metarm.store.versions import VersionStore
from service.samples.writer import SampleWriter

FLUSH_S = 5.0  # so that samples answered just before also count


class Retraining:
    """Every method raises redis.RedisError when Redis does not answer."""

    def __init__(
        self,
        jobs: JobBoard,
        presence: TrainerPresence,
        writer: SampleWriter,
        sample_log: SampleLog,
        store: VersionStore,
    ) -> None:
        self._jobs = jobs
        self._presence = presence
        self._writer = writer
        self._sample_log = sample_log
        self._store = store

    def check(self, reuse: str | None = None) -> None:
        """Raises TrainerUnavailableError or NotEnoughDataError if a job could not run. `reuse` is the job whose
        samples it would use again: also raises UnknownJobError, and JobConflictError if that has not ended."""
        trainer = self._presence.status()
        if trainer is None:
            raise TrainerUnavailableError(
                "no trainer is running: start one (`metarm trainer`), or wait some seconds for one that starts"
            )
        if trainer.get("state") != "ready":
            raise TrainerUnavailableError("the trainer is still starting: try again in a few seconds")
        self._check_data(trainer, Reuse.of(reuse, self._jobs, self._store) if reuse is not None else None)

    def start(self, options: Mapping[str, Any], trigger: Mapping[str, Any] | None = None) -> Job:
        """Queue a job after `check`. With `reuse`, options that are not given are those of the job that it
        names. Raises JobConflictError while another is queued or running, and UnknownJobError."""
        former = self._jobs.get(options["reuse"]).options if "reuse" in options else {}
        repeated = {name: value for name, value in former.items() if name not in ("force", "reuse")}
        return self._jobs.create({**repeated, **options}, trigger)

    def triggered(self, count: int) -> list[Job]:
        """The jobs among the last `count` that drift started, newest first."""
        return [job for job in self._jobs.recent(count) if job.trigger is not None]

    def _check_data(self, trainer: Mapping[str, Any], reuse: Reuse | None) -> None:
        if "preferences_error" in trainer:
            raise NotEnoughDataError(f"the trainer cannot use its preferences: {trainer['preferences_error']}")
        self._writer.flush(FLUSH_S)
        groups = self._count(trainer.get("min_groups", 0), reuse)
        have = {"groups": groups, "pairs": trainer.get("preferences", 0)}
        need = {"groups": trainer.get("min_groups", 0), "pairs": trainer.get("min_preferences", 0)}
        if have["groups"] < need["groups"]:
            raise NotEnoughDataError(
                f"{have['groups']} unused sample groups with two or more responses are logged; "
                f"{need['groups']} are needed",
                have=have,
                need=need,
            )
        if have["pairs"] < need["pairs"]:
            raise NotEnoughDataError(
                f"{have['pairs']} training preferences; {need['pairs']} are needed", have=have, need=need
            )

    def _count(self, needed: int, reuse: Reuse | None) -> int:
        """The groups that a run could use. Counts no further than `needed` without `reuse`; with it, raises
        NotEnoughDataError for too few."""
        if reuse is None:
            return self._sample_log.count_unused(needed)
        found = self._sample_log.count_reusable(reuse.ranges)
        reuse.check(found, needed)
        return found.left + found.newer
