"""How far a long step is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from metarm import logs

log = logging.getLogger(__name__)
LINE_EVERY_S = 15.0


class Progress:
    """Counts `total` steps of something called `what`."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._started = self._said = time.monotonic()
        terminal = sys.stderr.isatty() and not logs.writes_json()
        self._bar = tqdm(total=total, desc=what, unit="step", leave=False) if terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, **figures: float) -> None:
        self._done += 1
        shown = {name: f"{value:.3f}" for name, value in figures.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._said > LINE_EVERY_S or self._done == self._total:
            self._said = now
            left_s = (now - self._started) / self._done * (self._total - self._done)
            log.info("%s: %d of %d, %.0f s left, %s", self._what, self._done, self._total, left_s, shown)
