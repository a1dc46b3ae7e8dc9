"""The versions that this server refuses to load, with reasons and times. Lives on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from metarm.errors import InvalidVersionError, UnknownVersionError
from metarm.store.versions import VersionStore

Version = TypeVar("Version")
Signature = tuple[tuple[str, int, int, int, int], ...]

log = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0
MAX_REFUSALS = 100


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused version, the last reason, the number of refusals, and the first and last time (Unix, s)."""

    name: str
    reason: str
    times: int
    first: float
    last: float


class Refusals:
    """The last MAX_REFUSALS refusals by version, and the loads they prevent. A refused version is not read
    again until its files change or `retry_after_s` have passed: the fault may have been this machine's, such as
    too little memory."""

    def __init__(
        self, store: VersionStore, on_refusal: Callable[[], None], *, retry_after_s: float = RETRY_AFTER_S
    ) -> None:
        """`on_refusal` is called at each refusal."""
        self._store = store
        self._on_refusal = on_refusal
        self._retry_after_s = retry_after_s
        self._by_name: OrderedDict[str, Refusal] = OrderedDict()
        self._attempts: dict[
            str, tuple[Signature, float]
        ] = {}  # files and monotonic seconds of the last attempt

    def all(self) -> list[Refusal]:
        """Latest last."""
        return list(self._by_name.values())

    def record(self, name: str, reason: str) -> None:
        """Remember and count a refusal; log it unless the reason is the same as last time."""
        now, before = time.time(), self._by_name.pop(name, None)
        if before is None or before.reason != reason:
            log.error("refused %s: %s", name, reason, extra={"version": name})
        known = before or Refusal(name, reason, 0, now, now)
        self._by_name[name] = replace(known, reason=reason, times=known.times + 1, last=now)
        if len(self._by_name) > MAX_REFUSALS:
            forgotten, _ = self._by_name.popitem(last=False)
            self._attempts.pop(forgotten, None)
        self._on_refusal()

    def retry_in_s(self, name: str) -> float:
        """Seconds until a refused version is read again although its files stay the same."""
        _, tried = self._attempts.get(name, ((), float("-inf")))
        return max(0.0, tried + self._retry_after_s - time.monotonic())

    async def standing(self, name: str) -> str | None:
        """The reason for which a load would be refused without a read; None if it would be read."""
        if name not in self._attempts:
            return None
        files, tried = self._attempts[name]
        if (
            time.monotonic() - tried >= self._retry_after_s
            or await asyncio.to_thread(self._files, name) != files
        ):
            return None
        return self._by_name[name].reason

    async def load(self, name: str, load: Callable[[str], Awaitable[Version]]) -> Version:
        """`load(name)`, unless a refusal stands. Raises InvalidVersionError, and what `load` raises."""
        reason = await self.standing(name)
        if reason is not None:
            raise InvalidVersionError(reason)
        files = await asyncio.to_thread(self._files, name)  # before the load, so that a later change is seen
        self._attempts.pop(name, None)
        try:
            return await load(name)
        except InvalidVersionError as error:
            self.record(name, error.message)
            self._attempts[name] = files, time.monotonic()
            raise

    def _files(self, name: str) -> Signature:
        """A signature that changes when a file of the version is written, replaced, added or removed."""
        with contextlib.suppress(UnknownVersionError, OSError):
            folder = self._store.path(name)
            return tuple(_stat(path) for path in sorted([folder, *folder.rglob("*")]))
        return ()


def _stat(path: Path) -> tuple[str, int, int, int, int]:
    found = path.lstat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
