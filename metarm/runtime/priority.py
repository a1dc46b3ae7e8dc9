"""The priority of a thread beside scoring: requests that wait for a score go first."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)

NICENESS = 5  # not more: a thread that holds the interpreter's lock delays every thread that waits for it


def lower_thread_priority() -> None:
    """Give the calling thread, and threads it starts, less of a busy core than a thread that scores."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # Linux: of this thread alone
    except OSError as error:
        log.warning("the thread %s keeps its priority: %s", threading.current_thread().name, error)
