"""Follows the store's pointer: loads the version it names and makes it current."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metarm.errors import InvalidVersionError, MetaRMError
from metarm.runtime.tracing import span
from metarm.store.versions import VersionStore
from service.versions.live import LiveVersions
from service.versions.refusals import Refusals

log = logging.getLogger(__name__)

CUT_OVER = "cut-over"  # the source of a hold during one
POINTER = "current"  # refused itself, if it names no version
MOST_NAMED = 20  # versions in a message


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """The version that the pointer names and this server cannot serve, or POINTER, and the reason."""

    name: str
    reason: str


class Swapper:
    """Makes the store's `current` version the current one here, and takes part in cut-overs. If the pointer
    cannot be followed, the current version stays and `refused` has the reason."""

    def __init__(
        self, store: VersionStore, live: LiveVersions, refusals: Refusals, on_swap: Callable[[str], None]
    ) -> None:
        """`on_swap` receives each version that becomes current."""
        self._store = store
        self._live = live
        self._refusals = refusals
        self._on_swap = on_swap
        self._serving: str | None = None
        self._logged_empty_store = False
        self.refused: RefusedVersion | None = None
        self.store_unreadable = False  # the reason for which POINTER is refused
        self.target: str | None = None  # the version that the pointer named in the last turn
        self.on_disk: Sequence[str] = ()  # the versions there were in the last turn without a pointer

    async def follow(self) -> None:
        """Read the pointer once; swap if it names another version than the current one."""
        try:
            target = self.target = self._store.current()
            if target is None:
                self.on_disk = self._store.names()
        except (MetaRMError, OSError) as error:
            self._pointer_lost(error)
            return
        if target is None and self._serving is not None:
            self._refuse(POINTER, InvalidVersionError(f"the pointer {POINTER!r} is gone: activate a version"))
            return
        if target is None or target == self._serving:
            self.refused = None
            if target is None and not self._logged_empty_store:
                self._logged_empty_store = True
                log.info("no version is current: /ready answers 503 until one is")
            return
        if self.refused and self.refused.name == target and await self._refusals.standing(target):
            return
        if self._live.loaded(target) is None and target not in (on_disk := self._store.names()):
            among = f"activate one of {', '.join(on_disk[-MOST_NAMED:])}" if on_disk else "the store has none"
            missing = f"the pointer {POINTER!r} names {target}, which is not there: {among}"
            self._refuse(POINTER, InvalidVersionError(missing))
            return
        try:
            with span("swap", version=target):
                await self._live.load(target)
                if self._store.current() == target:  # otherwise the next turn follows it
                    await self._make_current(target)
        except MetaRMError as error:
            self._refuse(target, error)

    async def prepare(self, name: str) -> None:
        """Load a version for a cut-over, and hold it. Any error is a refusal."""
        await self._live.hold(CUT_OVER, [name])

    async def end(self, taken: str | None) -> None:
        """End a cut-over: serve the version it took, one assignment away, or the same as before."""
        if taken is not None and taken != self._serving:
            await self._make_current(taken)
        await self._live.hold(CUT_OVER, [])

    async def _make_current(self, name: str) -> None:
        await self._live.make_current(name)
        log.info("serving %s (before: %s)", name, self._serving, extra={"version": name})
        self._serving, self.refused = name, None
        self._on_swap(name)

    def _pointer_lost(self, error: MetaRMError | OSError) -> None:
        self.target = None
        cause = error if isinstance(error, OSError) else error.__cause__
        self.store_unreadable = isinstance(cause, OSError) and cause.errno != errno.EINVAL
        known = error if isinstance(error, MetaRMError) else InvalidVersionError(f"the store: {error}")
        self._refuse(POINTER, known)
        if isinstance(error, OSError):
            raise error

    def _refuse(self, name: str, error: MetaRMError) -> None:
        found = RefusedVersion(name, error.message)
        if found == self.refused:
            return
        log.error("cannot follow the pointer to %s, serving %s", name, self._serving or "no version")
        self.refused = found
        if name == POINTER or not isinstance(error, InvalidVersionError):  # a failed load is already recorded
            self._refusals.record(name, error.message)
