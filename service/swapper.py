"""Watches the store for a newly current version, and has it served."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from metarm.errors import InvalidVersionError, MetaRMError
from metarm.versions import VersionStore
from service.refusals import RETRY_AFTER_S

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """A version that could not be loaded, why, and when (monotonic seconds) it was tried."""

    name: str
    reason: str
    tried: float


class Swapper:
    """Keeps the live model at the store's `current`. A version that cannot be loaded is refused: the
    running one stays, `refused` says why, and it is tried again after a while."""

    def __init__(
        self,
        store: VersionStore,
        make_current: Callable[[str], Awaitable[None]],
        *,
        poll_ms: int,
        swapped: Callable[[str], None],
        unreachable: Callable[[str, str], None],
    ) -> None:
        """`swapped` is told each version that serves from now on. `unreachable` is told of a pointer that
        cannot be followed, and why, unless what it names was loaded and refused: who loads tells that."""
        self._store = store
        self._make_current = make_current
        self._poll_s = poll_ms / 1000
        self._swapped = swapped
        self._unreachable = unreachable
        self._serving: str | None = None
        self.refused: RefusedVersion | None = None

    async def run(self) -> None:
        """Follow the pointer until cancelled."""
        while True:
            await self.follow()
            await asyncio.sleep(self._poll_s)

    async def follow(self) -> None:
        """Look at the pointer once; swap if it names another version than the one served."""
        try:
            wanted = self._store.current()
        except MetaRMError as error:
            self._refuse("current", error)
            self._unreachable("current", error.message)
            return
        if wanted is None or wanted == self._serving:
            self.refused = None
            return
        if self._tried_lately(wanted):
            return
        try:
            await self._make_current(wanted)
        except MetaRMError as error:
            self._refuse(wanted, error)
            if not isinstance(error, InvalidVersionError):
                self._unreachable(wanted, error.message)
        else:
            log.info("serving %s (before: %s)", wanted, self._serving)
            self._serving, self.refused = wanted, None
            self._swapped(wanted)

    def _tried_lately(self, name: str) -> bool:
        refused = self.refused
        return refused is not None and refused.name == name and time.monotonic() - refused.tried < RETRY_AFTER_S

    def _refuse(self, name: str, error: MetaRMError) -> None:
        if self.refused is None or (self.refused.name, self.refused.reason) != (name, error.message):
            log.error("cannot follow the pointer to %s, still serving %s", name, self._serving)
        self.refused = RefusedVersion(name, error.message, time.monotonic())
