"""Ends Python code that runs too long, in whatever thread."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class TimeLimitExceededError(BaseException):
    """Raised inside of the block. No Exception, so that handlers in the block let it pass."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceededError in the block once it has run so long, at its next Python instruction: a
    single call of C code, such as the multiplication of two numbers, runs to its end."""
    block = _Block(threading.get_ident(), time.monotonic() + seconds)
    _watchdog.watch(block)
    try:
        yield
    finally:
        block.leave()
        _watchdog.forget(block)


@dataclass(slots=True, eq=False)
class _Block:
    """`changing` is of the block alone: an exception that comes while its thread holds it may leave it held."""

    thread: int
    end: float  # of the monotonic clock
    inside: bool = True
    changing: threading.Lock = field(default_factory=threading.Lock)

    def interrupt(self) -> None:
        with self.changing:
            if self.inside:
                _raise_in(self.thread, TimeLimitExceededError)

    def leave(self) -> None:
        with self.changing:
            self.inside = False
        _raise_in(self.thread, None)  # nothing is raised after the block


class _Watchdog:
    """One thread for all blocks: a timer for each took .2 ms of a request. It sleeps until the first end of the
    blocks that it has seen, so that blocks of one length wake it once in that time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: set[_Block] = set()
        self._wakes = math.inf
        self._thread: threading.Thread | None = None

    def watch(self, block: _Block) -> None:
        with self._changed:
            self._blocks.add(block)
            if self._thread is None or not self._thread.is_alive():  # also in a child of fork
                self._thread = threading.Thread(target=self._run, name="time-limit", daemon=True)
                self._thread.start()
            elif block.end < self._wakes:
                self._changed.notify()

    def forget(self, block: _Block) -> None:
        with self._changed:  # nothing interrupts its thread any more
            self._blocks.discard(block)

    def _run(self) -> None:
        with self._changed:
            while True:
                for block in [block for block in self._blocks if block.end <= time.monotonic()]:
                    self._blocks.remove(block)
                    block.interrupt()
                self._wakes = min((block.end for block in self._blocks), default=math.inf)
                self._changed.wait(
                    None if self._wakes == math.inf else max(0.0, self._wakes - time.monotonic())
                )


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Raise `kind` in a thread; None: nothing, whatever was to be raised."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if kind is None else ctypes.py_object(kind)
    )


_watchdog = _Watchdog()
