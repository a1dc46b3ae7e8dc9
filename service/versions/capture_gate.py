"""Keeps new requests from capturing the current version for the moment in which servers cut over."""

from __future__ import annotations

import asyncio


class CaptureGate:
    """Lives on the event loop. Requests that have captured a version, or name one, do not pass here."""

    def __init__(self) -> None:
        self._opening: asyncio.Event | None = None  # while closed

    def close(self) -> None:
        if self._opening is None:
            self._opening = asyncio.Event()

    def open(self) -> None:
        if self._opening is not None:
            self._opening.set()
            self._opening = None

    async def passed(self) -> None:
        """Return while the gate is open. A caller that awaits nothing more before it captures the current
        version captures it with the gate open."""
        while self._opening is not None:
            await self._opening.wait()
