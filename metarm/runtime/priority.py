"""Lowers the priority of a background thread, so that requests for scores go first."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)

NICENESS = 5  # not more: a thread that holds the GIL delays every thread that waits for it


def lower_thread_priority() -> None:
    """Give the calling thread, and threads it starts, a smaller share of a busy core than scoring threads."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # on Linux, this thread alone
    except OSError as error:
        log.warning("the thread %s keeps its priority: %s", threading.current_thread().name, error)
