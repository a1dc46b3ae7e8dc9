"""Follows the store's labels, so that no request has to read a disk, and holds what they name."""

from __future__ import annotations

import asyncio
import logging

from metarm.errors import InvalidVersionError
from metarm.store.versions import VersionStore
from service.versions.holding import Holding
from service.versions.live_model import LiveModel

log = logging.getLogger(__name__)


class LabelWatch:
    """Lives on the event loop. Labels that cannot be read are left as they were, and `error` says why."""

    def __init__(self, store: VersionStore, live: LiveModel, *, poll_ms: int) -> None:
        self._store = store
        self._live = live
        self._poll_s = poll_ms / 1000
        self._holding = Holding(live, "labels")
        self.error: str | None = None

    async def run(self) -> None:
        """Follow the labels until cancelled."""
        try:
            while True:
                self.follow()
                await asyncio.sleep(self._poll_s)
        finally:
            await self._holding.close()

    def follow(self) -> None:
        """Look at the labels once. They move at once; the versions they name are loaded behind it."""
        try:
            self._live.labels = self._store.labels()
        except (InvalidVersionError, OSError) as error:
            if self.error is None:
                log.error("the labels stay as they were: %s", error)
            self.error = str(error)
        else:
            self.error = None
        self._holding.want({target.version for target in self._live.labels.values()})
