"""Returns freed memory to the kernel once the process is idle.

Under load malloc keeps it (metarm/runtime/process_environment.py).
"""

from __future__ import annotations

import asyncio
import ctypes
import time

CHECK_S = 5.0
IDLE_SHARE = 0.1  # of one core's time over CHECK_S: less is idle


class IdleMemory:
    """The freed memory of this process. Does nothing without glibc."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._before = (time.monotonic(), time.process_time())
        self._was_busy = True

    async def release(self) -> None:
        """Return freed memory once after each busy period: about 20 ms in a thread."""
        (began, used), self._before = self._before, (time.monotonic(), time.process_time())
        idle = self._before[1] - used < IDLE_SHARE * (self._before[0] - began)
        if idle and self._was_busy and self._trim is not None:
            await asyncio.to_thread(self._trim, 0)
        self._was_busy = not idle
