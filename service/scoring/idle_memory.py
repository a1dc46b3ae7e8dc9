"""Hands freed memory back to the kernel once there is nothing to do: while there is, malloc keeps it
(metarm/runtime/process_environment.py)."""

from __future__ import annotations

import asyncio
import ctypes
import time

IDLE_S = 5.0
IDLE_SHARE = 0.1  # of one core's time over IDLE_S: less is idle


async def give_back_when_idle() -> None:
    """Until cancelled: once after every stretch of work, some 20 ms in a thread. Nothing without glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    worked = True
    while trim is not None:
        before = time.process_time()
        await asyncio.sleep(IDLE_S)
        idle = time.process_time() - before < IDLE_SHARE * IDLE_S
        if idle and worked:
            await asyncio.to_thread(trim, 0)
        worked = not idle
