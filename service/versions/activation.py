"""The only way the pointer moves from inside a service: activate a version, roll back, take a canary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from service.versions.live_model import LiveModel
from service.versions.store_writes import StoreWrites
from service.versions.swapper import Swapper

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Activation:
    """What the pointer names, what this server scores with, and the servers that cut over together (none
    where each follows the pointer alone)."""

    current: str
    serving: str | None
    servers: Sequence[str]


class Activator:
    """Lives on the event loop."""

    def __init__(self, live: LiveModel, swapper: Swapper, writes: StoreWrites) -> None:
        self._live = live
        self._swapper = swapper
        self._writes = writes

    async def activate(self, name: str, reason: str, *, together: bool = True) -> Activation:
        """Make a published version the current one, on all live servers together; returns once this one
        scores with it.

        Raises VersionUnavailableError, InvalidVersionError, CutOverAbortedError (all stay on the version
        they had), TrainerUnavailableError where the store is read-only here.
        """
        await self._live.load(name)
        before = self._live.current_name
        servers = await asyncio.to_thread(self._writes.activate, name, together=together)
        await self._swapper.follow()
        log.info("activated %s (before: %s): %s", name, before, reason, extra={"version": name})
        return Activation(current=name, serving=self._live.current_name, servers=servers)
