"""How far a long step is: a bar on a terminal; elsewhere nothing, or a line now and then. No torch."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar, cast

from tqdm import tqdm

from metarm.runtime import logs

log = logging.getLogger(__name__)
LINE_EVERY_S = 15.0

Item = TypeVar("Item")


def bar(items: Sequence[Item], what: str, unit: str) -> Iterable[Item]:
    """The items, with a bar over them on a terminal."""
    return cast("Iterable[Item]", tqdm(items, what, unit=unit, disable=not _on_terminal(), leave=False))


class Progress:
    """Counts `total` steps of something called `what`; where there is no terminal, in lines of the log."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._started = self._said = time.monotonic()
        terminal = _on_terminal()
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


def _on_terminal() -> bool:
    return sys.stderr.isatty() and not logs.writes_json()
