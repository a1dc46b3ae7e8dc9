"""Progress of a long step: a bar on a terminal, otherwise occasional lines in the log. Imports no torch."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from metarm.runtime import logs

log = logging.getLogger(__name__)
LINE_EVERY_S = 15.0

Item = TypeVar("Item")


def progress_bar(items: Sequence[Item], what: str, unit: str) -> Iterator[Item]:
    """Yield the items, and show a progress bar on a terminal."""
    with _bars(unit) as bars:
        yield from bars.track(items, description=what)


class Progress:
    """Counts `total` steps of the task `what`; without a terminal, in log lines."""

    def __init__(self, what: str, total: int, *, line_every_s: float = LINE_EVERY_S) -> None:
        self._what, self._total, self._done = what, total, 0
        self._line_every_s = line_every_s
        self._started = self._logged = time.monotonic()
        self._bars = _bars("step", TextColumn("{task.fields[figures]}"))
        self._task = self._bars.add_task(what, total=total, figures="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def step(self, **figures: float) -> None:
        """Count one step; `figures` are shown beside the count, with three decimals."""
        self._done += 1
        shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        if not self._bars.disable:
            self._bars.update(self._task, advance=1, figures=shown, refresh=True)
            return
        now = time.monotonic()
        if now - self._logged > self._line_every_s or self._done == self._total:
            self._logged = now
            left_s = (now - self._started) / self._done * (self._total - self._done)
            log.info("%s: %d of %d, %.0f s left, %s", self._what, self._done, self._total, left_s, shown)


def _bars(unit: str, *more: ProgressColumn) -> Bars:
    """Bars on stderr that disappear at the end. They are drawn only when a step is counted: a thread that
    redraws them would disturb measurements."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *more,
    )
    return Bars(
        *columns,
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,  # stdout may be a file while stderr is a terminal
        redirect_stderr=False,
        disable=not sys.stderr.isatty() or logs.writes_json(),
    )
