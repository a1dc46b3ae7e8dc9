"""Metrics of the trainer and its jobs, shown by the service: the trainer has no port to scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from metarm.figures import DEPRECATED_GATE_NAMES, with_deprecated_names
from metarm.records import FINISHED, JobStatus
from metarm.shared.jobs import JobBoard
from metarm.shared.presence import TrainerPresence
from service.telemetry.registry import Declared, MetricRegistry

UP = Declared("rm_trainer_up", "gauge", (), "1 while a trainer is alive. Absent while Redis does not answer.")
ACTIVE = Declared("rm_retrain_active", "gauge", (), "1 while a job is queued or running.")
STEP = Declared("rm_retrain_step", "gauge", (), "Updates the running job has done. Absent without a job.")
STEPS = Declared("rm_retrain_steps", "gauge", (), "Updates of the running job in all.")
LOSS = Declared("rm_retrain_loss", "gauge", (), "Preference loss of the running job's last update.")
JOBS = Declared(
    "rm_retrain_jobs_total",
    "counter",
    ("status",),
    "Jobs that ended, by status: published, rejected, failed or cancelled.",
)
LAST = Declared(
    "rm_retrain_last_status",
    "gauge",
    ("status",),
    "1 for the status of the job that ended last, 0 for the others. Absent before the first.",
)
LAST_AT = Declared(
    "rm_retrain_last_finished_timestamp_seconds", "gauge", (), "When the last job ended, in Unix time."
)
GATE = Declared(
    "rm_retrain_gate_figure",
    "gauge",
    ("figure",),
    "The gate's figures of that job's candidate, by figure (docs/metarm.md). Deprecated: spread_ratio.",
)
TRACKER_FAILURES = Declared(
    "rm_tracker_failures_total",
    "counter",
    ("tracker",),
    "Runs that went on after one of their trackers had failed.",
)
ALL = (UP, ACTIVE, STEP, STEPS, LOSS, JOBS, LAST, LAST_AT, GATE, TRACKER_FAILURES)


@dataclass(frozen=True, slots=True)
class TrainingFigures:
    """The trainer's state in Redis; None if there is nothing to show."""

    trainer: bool
    active: bool
    step: int | None
    steps: int | None
    loss: float | None
    ended: Mapping[str, int]  # number of jobs by status
    last: JobStatus | None
    last_at: float | None  # Unix seconds
    gate: Mapping[str, float] = field(default_factory=dict)
    tracker_failures: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, jobs: JobBoard, presence: TrainerPresence) -> Self:
        """As they are now. Blocking; raises redis.RedisError when Redis does not answer."""
        active = jobs.active()
        progress = active.progress if active else {}
        last = next((job for job in jobs.recent(2) if job.status in FINISHED), None)
        figures = (last.verdict or {}).get("figures", {}) if last else {}
        figures = with_deprecated_names(figures, DEPRECATED_GATE_NAMES)
        return cls(
            trainer=presence.readable_status() is not None,
            active=active is not None,
            step=progress.get("step"),
            steps=progress.get("steps"),
            loss=progress.get("loss"),
            ended=jobs.ended(),
            last=last.status if last else None,
            last_at=last.finished if last else None,
            gate={name: value for name, value in figures.items() if value is not None},
            tracker_failures=jobs.tracker_failures(),
        )


class TrainingMetrics(Collector):
    """Equal on all servers of one Redis: do not sum them over servers."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._figures: TrainingFigures | None = None
        registry.collected(self, ALL)

    def show(self, figures: TrainingFigures | None) -> None:
        """Show these figures from now on; None, if they are unknown, shows no series."""
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        seen = self._figures
        if seen is None:
            return
        numbers: list[tuple[Declared, float | None]] = [
            (UP, seen.trainer),
            (ACTIVE, seen.active),
            (STEP, seen.step),
            (STEPS, seen.steps),
            (LOSS, seen.loss),
            (LAST_AT, seen.last_at),
        ]
        yield from (_series(declared, {(): value}) for declared, value in numbers if value is not None)
        yield _series(JOBS, {(status,): seen.ended.get(status, 0) for status in sorted(FINISHED)})
        if seen.last is not None:
            yield _series(LAST, {(status,): status == seen.last for status in sorted(FINISHED)})
        yield _series(GATE, {(figure,): value for figure, value in seen.gate.items()})
        yield _series(TRACKER_FAILURES, {(name,): count for name, count in seen.tracker_failures.items()})


def _series(declared: Declared, values: Mapping[tuple[str, ...], float]) -> Metric:
    family = declared.family()
    for labels, value in values.items():
        family.add_metric(labels, float(value))
    return family
