"""Ends Python code that runs too long, in whatever thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitExceededError(BaseException):
    """Raised inside of the block. No Exception, so that handlers in the block let it pass."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceededError in the block once it has run so long, at its next Python instruction: a
    single call of C code, such as the multiplication of two numbers, runs to its end."""
    thread = ctypes.c_ulong(threading.get_ident())
    changing = threading.Lock()
    running = True

    def stop() -> None:
        with changing:
            if running:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimeLimitExceededError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with changing:
            running = False
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # nothing is raised after the block
