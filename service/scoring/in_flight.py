"""Work in flight that several requests wait for: equal work is done once, and all of them get its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar


class Work(Hashable, Protocol):
    """Equal works have equal outcomes."""

    async def run(self) -> None: ...


Kind = TypeVar("Kind", bound=Work)


@dataclass(slots=True, eq=False)
class Shared(Generic[Kind]):
    """A work in flight, and the number of those who wait for it."""

    work: Kind
    task: asyncio.Task[None]
    waiting: int = 0
    cancelled: bool = False  # all who waited have left; it may still end what it cannot interrupt


class InFlight(Generic[Kind]):
    """Lives on the event loop."""

    def __init__(self) -> None:
        self._shared: dict[Kind, Shared[Kind]] = {}

    def shared(self, work: Kind) -> Shared[Kind]:
        """The work in flight that equals `work`, or `work` itself, which begins. Await its end next."""
        equal = self._shared.get(work)
        if equal is not None and not equal.cancelled:
            return equal
        task = asyncio.create_task(_run(work, equal.task if equal else None), name="shared-work")
        begun = Shared(work, task)
        task.add_done_callback(partial(self._ended, begun))
        self._shared.pop(work, None)  # a dictionary would keep the equal key
        self._shared[work] = begun
        return begun

    async def end_of(self, shared: Shared[Kind]) -> None:
        """Wait for the end of the work; raises what it raised. It is cancelled when all who wait have been."""
        shared.waiting += 1
        try:
            await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting and not shared.task.done():
                shared.cancelled = True  # nobody may join it any more
                shared.task.cancel()

    def _ended(self, shared: Shared[Kind], task: asyncio.Task[None]) -> None:
        if self._shared.get(shared.work) is shared:
            del self._shared[shared.work]
        if not task.cancelled():
            task.exception()  # asyncio reports an error that nobody waited for


async def _run(work: Work, after: asyncio.Task[None] | None) -> None:
    """Run the work once an equal one that was cancelled has ended: what that computes need not be repeated."""
    if after is not None:
        try:
            await asyncio.wait([after])
        except asyncio.CancelledError:
            await asyncio.wait([after])  # this one ends no sooner, so that the next one waits for both
            raise
    await work.run()
