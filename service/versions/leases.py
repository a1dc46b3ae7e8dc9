"""Leases: clients keep versions in memory for a time, on every server of one Redis.

Each server copies the leases in Redis about once a second, and holds their versions. A copied lease lasts its
full time, even if Redis does not answer or comes back empty.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from metarm.errors import UnknownLeaseError
from metarm.shared.leases import LeaseBoard
from service.versions.live import LiveVersions

SOURCE = "leases"
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Lease:
    """`ends` is in monotonic seconds."""

    id: str
    version: str
    ends: float

    @property
    def left_s(self) -> float:
        return self.ends - time.monotonic()


class Leases:
    """Lives on the event loop; its Redis commands run in threads."""

    def __init__(self, board: LeaseBoard, live: LiveVersions, on_count: Callable[[int], None]) -> None:
        """`on_count` receives the number of current leases."""
        self._board = board
        self._live = live
        self._on_count = on_count
        self._known: dict[str, Lease] = {}
        self._changing = asyncio.Lock()

    async def follow(self) -> None:
        """Copy the leases in Redis, restore those it has lost, and drop those that have ended. Raises
        redis.RedisError, after it has dropped them."""
        async with self._changing:
            try:
                self._known = await asyncio.to_thread(self._synchronised)
            finally:
                self._update_holds()

    def all(self) -> list[Lease]:
        """The current leases, by their end."""
        return sorted((lease for lease in self._known.values() if lease.left_s > 0), key=lambda x: x.ends)

    async def create(self, version: str, ttl_s: float) -> Lease:
        """Keep a version, or the version that a label names now, in memory for `ttl_s`.

        It is in memory when this returns. Raises what `LiveVersions.get` raises, TooManyLeasesError, and
        redis.RedisError; then nothing has changed.
        """
        chosen = await self._live.get(version, None)
        with self._live.using(chosen):
            async with self._changing:
                created = Lease(f"lease-{uuid.uuid4().hex[:12]}", chosen.name, time.monotonic() + ttl_s)
                await asyncio.to_thread(self._board.create, created.id, chosen.name, ttl_s)
                self._known[created.id] = created
                self._update_holds()
        return created

    async def renew(self, lease: str, ttl_s: float) -> Lease:
        """Extend a lease to `ttl_s` from now; never shorten it. Raises UnknownLeaseError."""
        async with self._changing:
            known = self._known.get(lease)
            if known is not None and known.left_s > 0:  # in case Redis came back without it
                await asyncio.to_thread(self._board.restore, lease, known.version, known.left_s)
            now = time.monotonic()
            listed = await asyncio.to_thread(self._board.renew, lease, ttl_s)
            if listed is None or listed.version is None:
                self._forget(lease)
                raise _unknown(lease)
            renewed = self._known[lease] = Lease(lease, listed.version, now + listed.left_s)
            self._update_holds()
        return renewed

    async def release(self, lease: str) -> None:
        """End a lease now, on every server. Raises UnknownLeaseError."""
        async with self._changing:
            known = self._known.get(lease)
            if known is not None and known.left_s > 0:
                await asyncio.to_thread(self._board.restore, lease, known.version, known.left_s)
            released = await asyncio.to_thread(self._board.release, lease)
            self._forget(lease)
        if not released:
            raise _unknown(lease)

    def _synchronised(self) -> dict[str, Lease]:
        """The leases in Redis, with those it has lost restored. Runs in a thread."""
        now = time.monotonic()  # a copy ends no later than its original
        listed = self._board.all()
        leases = {
            lease: Lease(lease, entry.version, now + entry.left_s)
            for lease, entry in listed.items()
            if entry.version is not None
        }
        for lease, known in self._known.items():
            if lease not in listed and known.left_s > 0:
                self._board.restore(lease, known.version, known.left_s)
                leases[lease] = known
        return leases

    def _forget(self, lease: str) -> None:
        self._known.pop(lease, None)
        self._update_holds()

    def _update_holds(self) -> None:
        self._known = {lease.id: lease for lease in self.all()}
        self._live.hold_soon(SOURCE, {lease.version for lease in self._known.values()})
        self._on_count(len(self._known))


def _unknown(lease: str) -> UnknownLeaseError:
    return UnknownLeaseError(f"there is no lease {lease!r}: it was released or has expired")
