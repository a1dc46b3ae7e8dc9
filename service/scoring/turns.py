"""Long loops on the event loop, which give other requests their turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
AT_ONCE = 256  # items between two turns of other requests: a few milliseconds of what a loop here does


async def in_turns(items: Iterable[Item]) -> AsyncIterator[Item]:
    """The items, in order; after every AT_ONCE of them, others on the event loop get their turn."""
    for number, item in enumerate(items, 1):
        yield item
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
