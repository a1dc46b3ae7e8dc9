"""The versions in memory: hands one out per request, and swaps the current one by one assignment."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from metarm.errors import InvalidRequestError, NotReadyError, UnknownVersionError, VersionUnavailableError
from metarm.model import RewardModel
from metarm.versions import NAME, version_number
from service.capture_gate import CaptureGate


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVersion:
    """A model in memory and the name of the version it is."""

    name: str
    model: RewardModel


class LiveModel:
    """Lives on the event loop. A request holds its LoadedVersion until it is answered, so dropping
    one from here frees its memory only once nobody uses it."""

    def __init__(self, load: Callable[[str], Awaitable[LoadedVersion]], keep_loaded: int) -> None:
        """`load` brings a version from disk, off the event loop, warmed and checked."""
        self._load = load
        self._keep_loaded = keep_loaded
        self._loaded: OrderedDict[str, LoadedVersion] = OrderedDict()
        self._loading = asyncio.Lock()
        self._current: LoadedVersion | None = None
        self._kept: dict[str, frozenset[str]] = {}
        self.gate = CaptureGate()

    @property
    def current_name(self) -> str | None:
        return self._current.name if self._current else None

    @property
    def loaded_names(self) -> list[str]:
        return sorted(self._loaded, key=version_number)

    def current(self) -> LoadedVersion:
        if self._current is None:
            raise NotReadyError("no reward model is loaded yet: the first version is still being made")
        return self._current

    async def get(self, version: str | None, min_version: str | None) -> LoadedVersion:
        """The one version that scores a request: `version` if pinned, else the current one, once the gate
        is open.

        Raises VersionUnavailableError (409), naming what is here, where neither pin can be met.
        """
        if version is None:
            await self.gate.passed()  # and nothing else is awaited between this and the capture
            chosen = self.current()
        else:
            chosen = await self.load(version)
        if min_version is not None and version_number(chosen.name) < version_number(_checked(min_version)):
            raise self._unavailable(f"at least {min_version} is wanted, {chosen.name} would answer")
        return chosen

    async def make_current(self, name: str) -> None:
        """Load `name` beside the running version, then swap: the requests in flight keep theirs."""
        self._current = await self.load(name)

    async def load(self, name: str) -> LoadedVersion:
        """The version in memory, brought from disk if need be.

        Raises VersionUnavailableError (409) where the store has no such version.
        """
        if name not in self._loaded:
            async with self._loading:
                if name not in self._loaded:
                    await self._bring(_checked(name))
        self._loaded.move_to_end(name)
        return self._loaded[name]

    async def hold(self, source: str, names: Collection[str]) -> None:
        """From now on `source` wants these versions kept in memory, and no others: loads what is missing."""
        self._kept[source] = frozenset(names)
        for name in names:
            await self.load(name)

    async def _bring(self, name: str) -> None:
        try:
            self._loaded[name] = await self._load(name)
        except UnknownVersionError as error:
            raise self._unavailable(f"{name} is not in the store") from error
        kept = {self.current_name, name}.union(*self._kept.values())
        idle = [old for old in self._loaded if old not in kept]
        for old in idle[: max(0, len(self._loaded) - self._keep_loaded)]:
            del self._loaded[old]

    def _unavailable(self, why: str) -> VersionUnavailableError:
        return VersionUnavailableError(
            f"{why}; loaded: {', '.join(self.loaded_names) or 'none'}",
            current=self.current_name,
            loaded=self.loaded_names,
        )


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidRequestError(f"{name!r} is not a version name, such as v000003")
    return name
