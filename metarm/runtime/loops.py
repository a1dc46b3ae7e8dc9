"""Work beside the requests: looks that are taken again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)
PAUSE_S = 1.0  # after a failure


async def again_and_again(look: Callable[[], Awaitable[None]], every_s: float) -> None:
    """Until cancelled. What a look raises is logged, once while it stays the same, and ends nothing."""
    said = ""
    while True:
        try:
            await look()
            said = ""
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if reason != said:
                log.exception("a background look failed")
                said = reason
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(every_s)
