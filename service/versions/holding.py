"""Keeps in memory what one source wants, for sources that look again and again: labels, leases."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection

from metarm.errors import MetaRMError
from service.versions.live_model import LiveModel
from service.versions.refusals import RETRY_AFTER_S

log = logging.getLogger(__name__)


class Holding:
    """Never waits and never raises: versions that are missing are loaded behind it, and one that cannot be
    is logged once and tried again after a while."""

    def __init__(self, live: LiveModel, source: str) -> None:
        self._live = live
        self._source = source
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, float] = {}  # by name, monotonic seconds

    def want(self, names: Collection[str]) -> None:
        """From now on hold these, and no others."""
        self._live.keep(self._source, names)
        self._failed = {name: tried for name, tried in self._failed.items() if name in names}
        for name in names:
            lately = time.monotonic() - self._failed.get(name, float("-inf")) < RETRY_AFTER_S
            if self._live.loaded(name) is None and name not in self._loads and not lately:
                self._loads[name] = asyncio.create_task(self._load(name), name=f"{self._source}-{name}")

    async def close(self) -> None:
        loads = list(self._loads.values())
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _load(self, name: str) -> None:
        try:
            await self._live.load(name)
        except MetaRMError as error:
            if name not in self._failed:
                log.warning("%s want %s, which cannot be loaded: %s", self._source, name, error.message)
            self._failed[name] = time.monotonic()
        finally:
            del self._loads[name]
