"""The storyline: wait → read → step → save → gate → publish → promote → acknowledge."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict

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
from metarm.model.reward_model import RewardModel, load_model
from metarm.records import JobStatus
from metarm.runtime import logs, tracing
from metarm.runtime.code_version import code_version
from metarm.runtime.progress import Progress
from metarm.shared.jobs import Job, JobBoard
from metarm.shared.sample_log import SampleLog
from metarm.store.calibration import Calibration
from metarm.store.retention import Retention
from metarm.store.versions import VersionStore
from trainer.batches import encode_groups, encode_pairs
from trainer.candidate import Yardstick, calibrated_like, described
from trainer.gate import Thresholds, judge
from trainer.heartbeat import Heartbeat, TrainerReplacedError
from trainer.learning_curve import LearningCurve
from trainer.meta_set import MetaSet, read_meta_set
from trainer.meta_update import StepReport
from trainer.preferences import PreferenceSet
from trainer.run_curve import RunCurve
from trainer.settings import TrainerSettings
from trainer.tracking import TrackedRun, Trackers
from trainer.training import TrainOptions, TrainReport, train

log = logging.getLogger(__name__)
POLL_S = 0.2
MAX_ATTEMPTS = 3


class Stopping(Exception):  # noqa: N818 (a signal, not an error)
    """The trainer was told to stop in the middle of a run."""


class Trainer:
    """Runs the jobs on the board, one after another."""

    def __init__(
        self,
        settings: TrainerSettings,
        store: VersionStore,
        jobs: JobBoard,
        sample_log: SampleLog,
        preferences: PreferenceSet | ConfigurationError,
        heartbeat: Heartbeat,
        retention: Retention,
        promote: Callable[[str], object],
        trackers: Trackers,
    ) -> None:
        """`promote` makes a published version current, or raises CutOverAbortedError."""
        self._settings = settings
        self._store = store
        self._jobs = jobs
        self._sample_log = sample_log
        self._preferences = preferences
        self._heartbeat = heartbeat
        self._retention = retention
        self._promote = promote
        self._trackers = trackers

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; a run that is under way then is left for the next trainer."""
        while not stop.is_set():
            try:
                self._heartbeat.check()
                job = self._jobs.active()
                if job is not None:
                    with logs.about_job(job.id):
                        self._run_job(job, stop)
            except redis.RedisError as error:
                log.warning("Redis does not answer, the job waits: %s", error)
                stop.wait(2.0)
            stop.wait(POLL_S)

    def _run_job(self, job: Job, stop: threading.Event) -> None:
        """Bring one job to its end, whatever that is; only Redis errors and a lost place come out."""
        decided = self._decided(job) if job.attempts else None
        if decided:  # an earlier trainer published or rejected, and ended before it could say so
            self._finish(job, decided, resumed=True)
            return
        if job.attempts >= MAX_ATTEMPTS:
            self._fail(job, TrainingError(f"given up: {job.attempts} trainers ended while on it"))
            return
        job = self._jobs.save(job.with_changes(status="running", attempts=job.attempts + 1))
        try:
            with tracing.span("retrain", job=job.id), self._trackers.run(job.id) as tracked:
                self._adapt(job, stop, tracked)
        except Stopping:
            self._jobs.save(job.with_changes(status="queued", attempts=job.attempts - 1))
        except JobCancelledError:
            log.info("%s was cancelled", job.id)
            self._jobs.finish(self._jobs.get(job.id), "cancelled")
        except (redis.RedisError, TrainerReplacedError):
            raise
        except MetaRMError as error:
            self._fail(job, error)
        except Exception as error:
            log.exception("%s failed", job.id)
            self._fail(job, MetaRMError.unexpected(error))

    def _adapt(self, job: Job, stop: threading.Event, tracked: TrackedRun) -> None:
        preferences = _usable(self._preferences, self._settings.min_preferences)
        with tracing.span("read"):
            meta_set = read_meta_set(self._sample_log, self._settings)
        parent = self._store.current()
        if parent is None:
            raise NotReadyError("there is no version to adapt yet")
        of_parent = Calibration.of(self._store.manifest(parent))
        changes = dict(job.options)
        force = bool(changes.pop("force", False))
        options = TrainOptions.of(self._settings, changes)
        model = load_model(self._store.path(parent), self._settings.max_tokens)
        yardstick = Yardstick.of(model.encoder, preferences.held_out, meta_set.groups)
        before = yardstick.answers(model)
        of_run = {"parent": parent, "groups": len(meta_set.groups), "pairs": len(preferences.train)}
        tracked.begin({**options.record(), **of_run})
        with tracing.span("train", groups=len(meta_set.groups), steps=options.steps):
            report = self._train(job, model, preferences, meta_set, options, stop, tracked)
        job = job.with_changes(curve=RunCurve.of(report.curve).record())

        name, folder = self._store.stage()
        try:
            with tracing.span("save", version=name):
                model.save(folder)
                saved = load_model(folder, self._settings.max_tokens)  # what would be served is what is judged
            with tracing.span("gate", version=name):
                after = yardstick.answers(saved)
                thresholds = Thresholds.of(self._settings)
                verdict = judge(before, after, yardstick.lengths, thresholds).despite(force)
            tracked.log("gate", {**verdict.figures, "accepted": verdict.accepted}, report.steps)
            manifest = {
                "parent": parent,
                "job": job.id,
                "method": "vanilla" if options.ascent == "none" else "metarm",
                "source": self._store.manifest(parent).get("source"),
                "encoding": model.encoder.describe(),
                "settings": options.record(),
                "preferences": preferences.record(),
                "samples": meta_set.record(),
                "metrics": report.summary(),
                "verdict": asdict(verdict),
                "code_version": code_version(),
            }
            self._heartbeat.check()
            if verdict.publishes:
                calibration = calibrated_like(after.held_out, before.held_out, of_parent)
                of_model = described(saved, after.held_out, calibration, preferences.held_out)
                self._store.keep_curve(name, LearningCurve.of_run(report, verdict.figures).record())
                with tracing.span("publish", version=name):
                    self._store.publish(name, {**manifest, **of_model}, activate=False)
            else:
                self._store.reject(name, manifest)
        finally:
            self._store.discard(name)  # whatever of it was not published
        self._finish(job, name)
        self._let_go()

    def _train(
        self,
        job: Job,
        model: RewardModel,
        preferences: PreferenceSet,
        meta_set: MetaSet,
        options: TrainOptions,
        stop: threading.Event,
        tracked: TrackedRun,
    ) -> TrainReport:
        pairs = encode_pairs(model.encoder, preferences.train)
        groups = encode_groups(model.encoder, meta_set.groups)
        log.info("%s: %d groups, %d pairs, %s", job.id, len(groups), len(pairs), options.record())
        curve = RunCurve()
        with Progress(job.id, options.steps) as progress:

            def on_step(step: int, report: StepReport) -> None:
                progress.step(loss=report.loss)
                tracked.log("train", asdict(report), step)
                self._heartbeat.check()
                if stop.is_set():
                    raise Stopping
                curve.add(step, report)
                self._report(job.with_changes(curve=curve.record()), step, options.steps, report)

            self._report(job, 0, options.steps, None)
            return train(model, pairs, groups, options, on_step)

    def _report(self, job: Job, step: int, steps: int, report: StepReport | None) -> None:
        """Show progress, and stop if asked to. A run goes on while Redis does not answer."""
        figures = asdict(report) if report else {}
        try:
            if self._jobs.cancel_requested(job.id):
                raise JobCancelledError("cancelled on request")
            self._jobs.save(job.with_changes(progress={"step": step, "steps": steps, **figures}))
        except redis.RedisError as error:
            log.warning("%s goes on without Redis: %s", job.id, error)

    def _decided(self, job: Job) -> str | None:
        """The version this job published or rejected, if it came that far."""
        for name in [*self._store.names(), *self._store.rejected()]:
            try:
                if self._store.manifest(name).get("job") == job.id:
                    return name
            except InvalidVersionError as error:
                log.warning("passed over: %s", error.message)
        return None

    def _finish(self, job: Job, name: str, *, resumed: bool = False) -> None:
        """The outcome is durable in the store: make the version current, let go of its samples, then say how
        the job ended. `resumed`: by another trainer than the one that wrote it."""
        manifest = self._store.manifest(name)
        verdict, samples = manifest["verdict"], manifest["samples"]
        publishes = verdict["accepted"] or verdict.get("forced", False)
        status: JobStatus = "published" if publishes else "rejected"
        error = None
        # where the pointer has left the parent, it was moved already, or somebody wants something else
        if publishes and (not resumed or self._store.current() == manifest["parent"]):
            try:
                with tracing.span("promote", version=name):
                    self._promote(name)
            except CutOverAbortedError as aborted:
                status, error = "failed", aborted.to_wire()
        self._sample_log.acknowledge_through(samples["last_entry"])
        progress = {"step": manifest["metrics"]["steps"], "steps": manifest["settings"]["steps"]}
        self._jobs.finish(
            job,
            status,
            progress=progress,
            candidate=name,
            verdict=verdict,
            samples=samples["counts"],
            error=error,
        )
        reasons = [*verdict["reasons"], *([error["message"]] if error else [])]
        how = " by force, in spite of:" if verdict.get("forced") else ""
        log.info("%s: %s %s%s %s", job.id, status, name, how, "; ".join(reasons), extra={"version": name})

    def _let_go(self) -> None:
        """Delete versions that need not stay. What keeps from it does not touch the job: the next one tries."""
        try:
            self._retention.prune()
        except (redis.RedisError, MetaRMError, OSError) as error:
            log.warning("no version was let go of: %s", error)

    def _fail(self, job: Job, error: MetaRMError) -> None:
        log.error("%s failed: %s", job.id, error.message)
        self._jobs.finish(self._jobs.get(job.id), "failed", error=error.to_wire())


def _usable(preferences: PreferenceSet | ConfigurationError, needed: int) -> PreferenceSet:
    """The preferences, where there are enough of them to train on and to judge by."""
    if isinstance(preferences, ConfigurationError):
        raise preferences
    if len(preferences.train) < needed or not preferences.held_out:
        raise NotEnoughDataError(
            f"{preferences.source} has {len(preferences.train)} training and {len(preferences.held_out)} "
            f"held-out pairs; {needed} and 1 are needed"
        )
    return preferences
