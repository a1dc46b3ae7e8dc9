"""Reports runs to TensorBoard, Weights & Biases and MLflow, through Accelerate's classes.

A tracker never slows or fails a run: each has a thread, and one that fails or falls behind is left out for the
rest of the run, logged once and counted (docs/decisions/0011-metrics-logs-traces.md).
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarm.records import Tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

log = logging.getLogger(__name__)

PROJECT = "metarm"  # in W&B, and MLflow's experiment, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME is set
MOST_WAITING = 1000  # records a tracker may be behind
FINISH_S = 30.0  # to write the rest of a run that ended
BROKEN_OFF_S = 3.0  # to write the rest of one that failed or was stopped: the process may be about to end

Config = Mapping[str, Any]
Figures = Mapping[str, float | None]


class Trackers:
    """The trackers that METARM_REPORT_TO names."""

    def __init__(
        self, names: Sequence[Tracker], data_dir: Path, failed: Callable[[Tracker], None] = lambda _: None
    ) -> None:
        """`failed` is called, in any thread, with a tracker that failed in a run."""
        self._names = names
        self._data_dir = data_dir.absolute()
        self._failed = failed

    @contextmanager
    def run(self, name: str) -> Iterator[TrackedRun]:
        """A run under `name`, for the block. Trackers start it at `TrackedRun.begin`."""
        reporters = [Reporter(one, partial(_made, one, name, self._data_dir)) for one in self._names]
        run = TrackedRun(reporters)
        patience_s = BROKEN_OFF_S
        try:
            yield run
            patience_s = FINISH_S
        finally:
            for tracker in run.finish(patience_s):
                self._failed(tracker)


class TrackedRun:
    """One run, reported to every tracker."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = reporters

    def begin(self, config: Config) -> None:
        """Start the run in every tracker, with its settings."""
        for reporter in self._reporters:
            reporter.start(_flat(config))

    def finish(self, patience_s: float) -> list[Tracker]:
        """Let the trackers write the rest of the run, and return those that failed or took longer than this."""
        for reporter in self._reporters:
            reporter.close()
        deadline = time.monotonic() + patience_s
        return [one.tracker for one in self._reporters if not one.has_all(deadline - time.monotonic())]

    def log(self, section: str, figures: Figures, step: int) -> None:
        """Report the figures after `step` updates as `section`/name, but for those that are None. Never
        blocks."""
        known = {f"{section}/{name}": float(value) for name, value in figures.items() if value is not None}
        for reporter in self._reporters:
            reporter.offer(known, step)


class Reporter:
    """One tracker of one run, in a thread: some trackers keep their run by thread, and all may block."""

    def __init__(
        self, tracker: Tracker, made: Callable[[], GeneralTracker], *, most_waiting: int = MOST_WAITING
    ) -> None:
        """It is given up once `most_waiting` records wait for it."""
        self.tracker = tracker
        self._made = made
        self._waiting: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(most_waiting)
        self._error: str | None = None
        self._thread: threading.Thread | None = None

    def start(self, config: dict[str, Any]) -> None:
        self._thread = threading.Thread(
            target=self._work, args=(config,), name=f"tracker-{self.tracker}", daemon=True
        )
        self._thread.start()

    def offer(self, figures: dict[str, float], step: int) -> None:
        if self._error is None:
            self._put((figures, step))

    def close(self) -> None:
        """End of the run: nothing is offered after this."""
        self._put(None)

    def has_all(self, patience_s: float) -> bool:
        """Whether the tracker took everything that it was offered, and ended, within this time."""
        if self._thread is None:
            return True
        self._thread.join(max(0.0, patience_s))
        if self._thread.is_alive():
            self._give_up("it did not write the end of the run in time")
        return self._error is None

    def _put(self, record: tuple[dict[str, float], int] | None) -> None:
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._give_up(f"{self._waiting.maxsize} records are waiting")

    def _work(self, config: dict[str, Any]) -> None:
        try:
            tracker = self._made()
            tracker.start()
            tracker.store_init_configuration(config)
            while (record := self._waiting.get()) is not None and self._error is None:
                tracker.log(*record)
            tracker.finish()
        except Exception as error:  # noqa: BLE001 (a tracker may raise anything, and the run goes on)
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, reason: str) -> None:
        if self._error is None:
            log.warning("the run goes on without %s: %s", self.tracker, reason, extra={"tracker": self.tracker})
        self._error = reason


def _made(tracker: Tracker, run: str, data_dir: Path) -> GeneralTracker:
    """The tracker, not started. Its local files are under `data_dir`, unless its own variables name a place."""
    from accelerate import PartialState  # takes a second to import, and is needed only here
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    PartialState(cpu=True)  # the trackers read their process's rank from it
    if tracker == "tensorboard":
        return TensorBoardTracker(run, data_dir / "tensorboard")
    if tracker == "wandb":
        return WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), name=run, dir=str(data_dir))
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{data_dir / 'mlflow.db'}")
    return MLflowTracker(PROJECT, run_name=run)


def _flat(config: Config) -> dict[str, str | int | float | bool]:
    """The settings as types that every tracker accepts."""
    plain = (str, int, float)
    return {name: value if isinstance(value, plain) else str(value) for name, value in config.items()}
