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


def run_on_idle_cores() -> None:
    """Run the calling thread, and threads it starts, only on cores that no other thread wants
    (docs/decisions/0004-the-trainer-stands-behind-the-service.md)."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
