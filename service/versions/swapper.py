"""Watches the store for a newly current version, and has it served."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from metarm.errors import InvalidVersionError, MetaRMError
from metarm.runtime.tracing import span
from metarm.store.versions import VersionStore
from service.versions.live_model import LiveModel
from service.versions.refusals import RETRY_AFTER_S

log = logging.getLogger(__name__)

CUT_OVER = "cut-over"  # the source of what is kept in memory for one


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """A version that could not be loaded, why, and when (monotonic seconds) it was tried."""

    name: str
    reason: str
    tried: float


class Swapper:
    """Keeps the live model at the store's `current`, and takes part in cut-overs. A version that cannot be
    loaded is refused: the running one stays, `refused` says why, and it is tried again after a while."""

    def __init__(
        self,
        store: VersionStore,
        live: LiveModel,
        *,
        poll_ms: int,
        swapped: Callable[[str], None],
        unreachable: Callable[[str, str], None],
    ) -> None:
        """`swapped` is told each version that serves from now on. `unreachable` is told of a pointer that
        cannot be followed, and why, unless what it names was loaded and refused: who loads tells that."""
        self._store = store
        self._live = live
        self._poll_s = poll_ms / 1000
        self._swapped = swapped
        self._unreachable = unreachable
        self._serving: str | None = None
        self._waits_for_the_first = False
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
            if wanted is None and not self._waits_for_the_first:
                self._waits_for_the_first = True
                log.info("there is no version yet: /ready answers 503 until the trainer has made the first")
            return
        if self._tried_lately(wanted):
            return
        try:
            with span("swap", version=wanted):
                await self._live.load(wanted)
                if self._store.current() == wanted:  # else it moved meanwhile, and the next look follows it
                    await self._take(wanted)
        except MetaRMError as error:
            self._refuse(wanted, error)
            if not isinstance(error, InvalidVersionError):
                self._unreachable(wanted, error.message)

    async def prepare(self, name: str) -> None:
        """Have a version in memory that a cut-over is about to take. What it raises is a refusal."""
        await self._live.hold(CUT_OVER, [name])

    async def end(self, taken: str | None) -> None:
        """A cut-over has ended: serve the version it took, one assignment away, or the same as before."""
        if taken is not None and taken != self._serving:
            await self._take(taken)
        await self._live.hold(CUT_OVER, [])

    async def _take(self, name: str) -> None:
        await self._live.make_current(name)
        log.info("serving %s (before: %s)", name, self._serving, extra={"version": name})
        self._serving, self.refused = name, None
        self._swapped(name)

    def _tried_lately(self, name: str) -> bool:
        refused = self.refused
        return refused is not None and refused.name == name and time.monotonic() - refused.tried < RETRY_AFTER_S

    def _refuse(self, name: str, error: MetaRMError) -> None:
        if self.refused is None or (self.refused.name, self.refused.reason) != (name, error.message):
            log.error("cannot follow the pointer to %s, still serving %s", name, self._serving)
        self.refused = RefusedVersion(name, error.message, time.monotonic())
