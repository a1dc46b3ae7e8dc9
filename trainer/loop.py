"""The trainer's loop: wait → read → retrain → publish → promote → acknowledge."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import redis

from metarm.errors import (
    ConfigurationError,
    CutOverAbortedError,
    InvalidVersionError,
    JobCancelledError,
    MetaRMError,
    NotEnoughDataError,
    NotReadyError,
    TrainingError,
)
from metarm.model.reward_model import load_version
from metarm.records import JobStatus
from metarm.runtime import logs, tracing
from metarm.runtime.loops import LoopHealth
from metarm.runtime.progress import Progress
from metarm.shared.jobs import Job, JobBoard
from metarm.shared.reuse import Reuse
from metarm.shared.sample_log import SampleLog
from metarm.store.calibration import Calibration
from metarm.store.manifest import created_at
from metarm.store.retention import Retention
from metarm.store.versions import VersionStore, version_number
from trainer.gate import Thresholds
from trainer.heartbeat import Heartbeat, TrainerReplacedError
from trainer.learning_curve import LearningCurve
from trainer.meta_set import read_meta_set
from trainer.meta_update import StepReport
from trainer.preferences import Preferences, PreferenceSet
from trainer.retrain import OnStep, Parent, retrain
from trainer.run_curve import RunCurve
from trainer.settings import TrainerSettings
from trainer.staging import Staging
from trainer.tracking import TrackedRun, Trackers
from trainer.training import TrainOptions

log = logging.getLogger(__name__)
POLL_S = 0.2
MAX_ATTEMPTS = 3
CLOCKS_DIFFER_S = 86_400  # at most, between the machines of the service and of the trainer


class Stopping(Exception):  # noqa: N818 (a signal, not an error)
    """The trainer stops in the middle of a run."""


class Trainer:
    """Runs the jobs on the board, one after another."""

    def __init__(
        self,
        settings: TrainerSettings,
        store: VersionStore,
        jobs: JobBoard,
        sample_log: SampleLog,
        preferences: Preferences,
        heartbeat: Heartbeat,
        retention: Retention,
        promote: Callable[[str], object],
        trackers: Trackers,
        loop: LoopHealth,
    ) -> None:
        """`promote` makes a published version current, or raises CutOverAbortedError. `loop` receives the
        outcome of every turn."""
        self._settings = settings
        self._store = store
        self._jobs = jobs
        self._sample_log = sample_log
        self._preferences = preferences
        self._heartbeat = heartbeat
        self._retention = retention
        self._promote = promote
        self._trackers = trackers
        self._health = loop
        # what the trainer's place shows of the preferences, and the version and file that it is about
        self._announced: tuple[str | None, object] | None = None
        self._shown: Mapping[str, Any] = {}

    def run(self, stop: threading.Event) -> None:
        """Run jobs until `stop` is set; a job that is under way then stays queued for the next trainer.

        After an error of one turn the next continues with the same job. Raises TrainerReplacedError.
        """
        while not stop.is_set():
            with self._health.turn(TrainerReplacedError):
                self._run_next(stop)
            if self._health.error is not None:
                stop.wait(self._health.pause_s)
            stop.wait(POLL_S)

    def _run_next(self, stop: threading.Event) -> None:
        """Run the active job, if there is one."""
        self._heartbeat.check()
        job = self._jobs.active()
        if job is None:
            self.announce()
            return
        with logs.about_job(job.id):
            self._run_job(job, stop)

    def _run_job(self, job: Job, stop: threading.Event) -> None:
        """Bring one job to its end. Raises TrainerReplacedError, redis.RedisError, and OSError if the store
        cannot be read or a version on disk cannot be promoted: the job then stays active. Training starts at
        most MAX_ATTEMPTS times."""
        decided = self._recorded_outcome(job) if job.attempts else None
        try:
            if decided:  # an earlier attempt published or rejected it, and ended before it recorded that
                self._finish(job, decided, resumed=True)
            elif job.attempts >= MAX_ATTEMPTS:
                raise TrainingError(f"given up: {job.attempts} attempts ended without an outcome")
            else:
                started = self._jobs.save(job.with_changes(status="running", attempts=job.attempts + 1))
                with tracing.span("retrain", job=job.id), self._trackers.run(job.id) as tracked:
                    self._retrain(started, stop, tracked)
        except Stopping:
            self._jobs.save(job.with_changes(status="queued"))
        except JobCancelledError:
            log.info("%s was cancelled", job.id)
            self._jobs.finish(self._jobs.get(job.id), "cancelled")
        except (redis.RedisError, TrainerReplacedError):
            raise
        except MetaRMError as error:
            self._fail(job, error)
        except Exception as error:
            if isinstance(error, OSError) and self._recorded_outcome(job):
                raise  # the outcome is on disk: the next turn records it
            log.exception("%s failed", job.id)
            self._fail(job, MetaRMError.unexpected(error))

    def _retrain(self, job: Job, stop: threading.Event, tracked: TrackedRun) -> None:
        manifest = self._parent_manifest()
        preferences = _usable(self._preferences.of_child(manifest), self._settings.min_preferences)
        changes = dict(job.options)
        force, former = bool(changes.pop("force", False)), changes.pop("reuse", None)
        with tracing.span("read"):
            reuse = Reuse.of(former, self._jobs, self._store) if former else None
            samples = read_meta_set(self._sample_log, self._settings, reuse)
        job = self._jobs.save(job.with_changes(ranges=[asdict(part) for part in samples.ranges]))
        parent = self._parent(manifest)
        options, thresholds = TrainOptions.of(self._settings, changes), Thresholds.of(self._settings)
        of_run = {
            "parent": parent.version,
            "groups": len(samples.groups),
            "pairs": len(preferences.train),
            **({"reused": f"{samples.counts['reused']} of {former}"} if former else {}),
        }
        log.info("%s: %s", job.id, ", ".join(f"{k} {v}" for k, v in {**of_run, **options.record()}.items()))
        tracked.begin({**options.record(), **of_run})

        with Staging(self._store) as staged:
            with Progress(job.id, options.steps) as progress:
                on_step = self._on_step(job, options, stop, tracked, progress)
                given = preferences, samples.groups, options, thresholds
                candidate = retrain(parent, *given, on_step, staged.save_and_load, force=force)
            verdict, report = candidate.verdict, candidate.report
            tracked.log("gate", {**verdict.figures, "accepted": verdict.accepted}, report.steps)
            manifest = {**candidate.manifest, "job": job.id, "samples": samples.record()}
            self._heartbeat.check()
            if verdict.publishes:
                self._store.keep_curve(candidate.name, LearningCurve.of_run(report, verdict.figures).record())
                with tracing.span("publish", version=candidate.name):
                    self._store.publish(candidate.name, manifest, activate=False)
            else:
                self._store.reject(candidate.name, manifest)
        self._finish(job.with_changes(curve=RunCurve.of(report.curve).record()), candidate.name)
        self._prune()

    def announce(self) -> None:
        """Show in the trainer's place which preferences a run from the current version would have."""
        current, shown = None, dict[str, Any]()
        try:
            current = self._store.current()
            if current is not None and (current, self._preferences.stamp()) == self._announced:
                return
            manifest = self._parent_manifest()
            shown["preferences"] = len(self._preferences.of_child(manifest).train)
        except (ConfigurationError, InvalidVersionError, NotReadyError) as error:
            shown["preferences_error"] = error.message
        except OSError as error:
            shown["preferences_error"] = f"the store cannot be read: {error.strerror}"
        self._announced = current, self._preferences.stamp()
        if shown == self._shown:
            return
        if "preferences_error" in shown:
            log.error("retrains will fail: %s", shown["preferences_error"])
        needs = {"min_groups": self._settings.min_groups, "min_preferences": self._settings.min_preferences}
        self._heartbeat.announce({"state": "ready", **needs, **shown})
        self._shown = shown

    def _parent_manifest(self) -> Mapping[str, Any]:
        """The manifest of the current version. Raises NotReadyError if there is none."""
        name = self._store.current()
        if name is None:
            raise NotReadyError("there is no version to adapt yet")
        return self._store.manifest(name)

    def _parent(self, manifest: Mapping[str, Any]) -> Parent:
        name = manifest["name"]
        model = load_version(self._store.path(name), manifest, self._settings.max_tokens)
        return Parent(name, model, Calibration.of(manifest), manifest.get("source"))

    def _finish(self, job: Job, name: str, *, resumed: bool = False) -> None:
        """Make the version current if it is published, acknowledge its samples, and record how the job ended.

        The outcome is durable in the store. `resumed`: an earlier attempt wrote it.
        """
        manifest = self._store.manifest(name)
        verdict, samples = manifest["verdict"], manifest["samples"]
        publishes = verdict["accepted"] or verdict.get("forced", False)
        status: JobStatus = "published" if publishes else "rejected"
        error = None
        # a pointer that has left the parent was moved by the earlier attempt, or by a person's choice
        if publishes and (not resumed or self._store.current() == manifest["parent"]):
            try:
                with tracing.span("promote", version=name):
                    self._promote(name)
            except CutOverAbortedError as aborted:
                status, error = "failed", aborted.to_wire()
        self._sample_log.acknowledge_through(samples["last_entry"])
        made_with = manifest["settings"]
        progress = {
            "step": manifest["metrics"]["steps"],
            "steps": made_with["steps"],
            "ascent": made_with.get("ascent"),
        }
        self._jobs.finish(
            job,
            status,
            progress=progress,
            candidate=name,
            verdict=verdict,
            samples=samples["counts"],
            error=error,
        )
        reasons = [*_with_remedies(verdict), *([error["message"]] if error else [])]
        how = " by force, despite:" if verdict.get("forced") else ""
        log.info("%s: %s %s%s %s", job.id, status, name, how, "; ".join(reasons), extra={"version": name})
        if status == "rejected":
            log.info('%s: the option {"reuse": "%s"} of POST /retrain uses its samples again', job.id, job.id)

    def _fail(self, job: Job, error: MetaRMError) -> None:
        log.error("%s failed: %s", job.id, error.message)
        self._jobs.finish(self._jobs.get(job.id), "failed", error=error.to_wire())

    def _prune(self) -> None:
        """Delete versions that need not stay. An error does not affect the job: the next job tries again."""
        try:
            self._retention.prune()
        except Exception as error:  # noqa: BLE001 (logged: the job has ended)
            log.warning("no version was pruned: %s: %s", type(error).__name__, error)

    def _on_step(
        self,
        job: Job,
        options: TrainOptions,
        stop: threading.Event,
        tracked: TrackedRun,
        progress: Progress,
    ) -> OnStep:
        """What happens after each update: it is reported, and the run ends where it has to."""
        curve, began = RunCurve(), time.monotonic()
        of_run = {"steps": options.steps, "ascent": options.ascent}

        def on_step(step: int, report: StepReport) -> None:
            progress.step(loss=report.loss)
            tracked.log("train", asdict(report), step)
            self._heartbeat.check()
            if stop.is_set():
                raise Stopping
            curve.add(step, report)
            passed_s = time.monotonic() - began
            left_s = max(0.0, min(passed_s / step * (options.steps - step), options.time_limit_s - passed_s))
            done = {"step": step, **of_run, "updates_left_s": left_s, **asdict(report)}
            self._report(job.with_changes(curve=curve.record(), progress=done))

        self._report(job.with_changes(progress={"step": 0, **of_run}))
        return on_step

    def _report(self, job: Job) -> None:
        """Record progress. Raises JobCancelledError on request; a run continues while Redis does not answer."""
        try:
            if self._jobs.cancel_requested(job.id):
                raise JobCancelledError("cancelled on request")
            self._jobs.save(job)
        except redis.RedisError as error:
            log.warning("%s goes on without Redis: %s", job.id, error)

    def _recorded_outcome(self, job: Job) -> str | None:
        """The version that this job published or rejected; None if it did not come so far. It is newer than the
        job: the search begins with the newest version, and ends at one that is older."""
        names = [*self._store.names(), *self._store.rejected()]
        for name in sorted(names, key=version_number, reverse=True):
            try:
                manifest = self._store.manifest(name)
            except InvalidVersionError as error:
                log.warning("passed over: %s", error.message)
                continue
            if manifest.get("job") == job.id:
                return name
            with contextlib.suppress(KeyError, TypeError, ValueError):  # of unknown age
                if created_at(manifest) < job.created - CLOCKS_DIFFER_S:
                    return None
        return None


def _with_remedies(verdict: Mapping[str, Any]) -> list[str]:
    """Each reason with its remedy, which verdicts of earlier releases lack."""
    remedies = verdict.get("remedies") or [""] * len(verdict["reasons"])
    return [f"{why} → {do}" if do else why for why, do in zip(verdict["reasons"], remedies, strict=True)]


def _usable(preferences: PreferenceSet, needed: int) -> PreferenceSet:
    """The preferences. Raises NotEnoughDataError for too few pairs."""
    if len(preferences.train) < needed or not preferences.held_out:
        raise NotEnoughDataError(
            f"{preferences.source} has {len(preferences.train)} training and {len(preferences.held_out)} "
            f"held-out pairs; {needed} and 1 are needed"
        )
    return preferences
