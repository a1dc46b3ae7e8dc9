"""Work beside scoring: its thread stands back, so that whoever waits for a score goes first."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)

NICENESS = 5  # not more: while the thread has the interpreter's lock, those who wait for it wait for its core


def stand_back() -> None:
    """From here on the calling thread gets less of a busy core than one that scores. Threads it starts too."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # Linux: of this thread alone
    except OSError as error:
        log.warning("the thread %s keeps its priority: %s", threading.current_thread().name, error)
