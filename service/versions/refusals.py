"""The versions this server would not load: which, why, since when; and asking again costs nothing.

All of it lives on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from metarm.errors import InvalidVersionError, UnknownVersionError
from metarm.store.versions import VersionStore

Version = TypeVar("Version")
Signature = tuple[tuple[str, int, int, int, int], ...]

log = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0  # before a refused version whose files stay as they are is tried again
MOST = 100  # versions that are remembered


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version that was refused, the last reason, how often, and when first and last (Unix seconds)."""

    name: str
    reason: str
    times: int
    first: float
    last: float


class Refusals:
    """Every refusal since the start, by name: the last `MOST` of them."""

    def __init__(self, counted: Callable[[], None]) -> None:
        """`counted` is called at each refusal."""
        self._counted = counted
        self._by_name: OrderedDict[str, Refusal] = OrderedDict()

    def __call__(self, name: str, reason: str) -> None:
        """Remember, count and, unless it is the same as last time, log."""
        now, before = time.time(), self._by_name.pop(name, None)
        if before is None or before.reason != reason:
            log.error("refused %s: %s", name, reason, extra={"version": name})
        known = before or Refusal(name, reason, 0, now, now)
        self._by_name[name] = replace(known, reason=reason, times=known.times + 1, last=now)
        if len(self._by_name) > MOST:
            self._by_name.popitem(last=False)
        self._counted()

    def all(self) -> list[Refusal]:
        """Latest last."""
        return list(self._by_name.values())


class RefusalMemory(Generic[Version]):
    """Loads versions. One that was refused is refused again, unread, until its files change or RETRY_AFTER_S
    are over: what was wrong may have been this machine's, such as too little memory."""

    def __init__(self, load: Callable[[str], Awaitable[Version]], store: VersionStore) -> None:
        self._load = load
        self._store = store
        self._refused: dict[str, tuple[Signature, float, str]] = {}  # monotonic seconds, and why

    async def load(self, name: str) -> Version:
        """Raises what `load` raises."""
        files = await asyncio.to_thread(self._signature, name)  # before, so that a later change is seen
        before, refused_at, reason = self._refused.get(name, ((), 0.0, ""))
        if reason and files == before and time.monotonic() - refused_at < RETRY_AFTER_S:
            raise InvalidVersionError(reason)
        self._refused.pop(name, None)
        try:
            return await self._load(name)
        except InvalidVersionError as error:
            self._refused[name] = files, time.monotonic(), error.message
            raise

    def _signature(self, name: str) -> Signature:
        """What changes when a file of the version is written, replaced, added or removed."""
        with contextlib.suppress(UnknownVersionError, OSError):
            folder = self._store.path(name)
            return tuple(_stat(path) for path in sorted([folder, *folder.rglob("*")]))
        return ()


def _stat(path: Path) -> tuple[str, int, int, int, int]:
    found = path.lstat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
