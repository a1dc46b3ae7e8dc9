"""The versions in memory: hands one out per request, and swaps the current one by one assignment."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metarm.errors import (
    InvalidRequestError,
    InvalidVersionError,
    NotReadyError,
    UnknownVersionError,
    VersionUnavailableError,
)
from metarm.model.reward_model import RewardModel
from metarm.store.calibration import IDENTITY, Calibration
from metarm.store.versions import NAME, Label, VersionStore, version_number
from service.versions.capture_gate import CaptureGate


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVersion:
    """A model in memory, the name of the version it is, the line from its rewards to the scores it serves,
    and its manifest."""

    name: str
    model: RewardModel
    calibration: Calibration = IDENTITY
    manifest: Mapping[str, Any] = field(default_factory=dict)


class LiveModel:
    """Lives on the event loop. Of the versions in memory beyond `keep_loaded`, those used longest ago are
    dropped; never the current one, one that is held, or one that a request uses (`using`). What has to
    stay beyond the bound goes when the last of that ends."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[LoadedVersion]],
        keep_loaded: int,
        store: VersionStore,
        counted: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`load` brings a version from disk, off the event loop, warmed and checked. `counted` is told how
        many are in memory."""
        self._load = load
        self._keep_loaded = keep_loaded
        self._store = store
        self._counted = counted
        self._loaded: OrderedDict[str, LoadedVersion] = OrderedDict()  # used longest ago first
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._users: Counter[str] = Counter()
        self._held: dict[str, frozenset[str]] = {}
        self._current: LoadedVersion | None = None
        self.gate = CaptureGate()
        self.labels: Mapping[str, Label] = {}  # as a watch of the store saw them last

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

    def loaded(self, name: str) -> LoadedVersion | None:
        """The version if it is in memory now."""
        return self._loaded.get(name)

    async def get(self, version: str | None, min_version: str | None) -> LoadedVersion:
        """The one version that answers a request; enter `using` before the next await.

        `version`, a name or a label, pins it. Else, once the gate is open, the current one answers, if it is
        at least `min_version`; else the one the store's pointer names already, or the oldest that was not
        rolled back from: of those that are at least that. Raises VersionUnavailableError (409),
        naming what is here, where there is none.
        """
        least = 0 if min_version is None else version_number(_checked(min_version))
        if version is not None:
            name = version if NAME.fullmatch(version) else await self._labelled(version)
            if version_number(name) < least:
                raise await self._unavailable(f"at least {min_version} is wanted, {name} would answer")
            return await self.load(name)
        await self.gate.passed()  # and nothing else is awaited between this and the capture
        current = self.current()
        if version_number(current.name) >= least:
            return current
        found = await asyncio.to_thread(_one_from, self._store, least, self.loaded_names)
        if found is None:
            raise await self._unavailable(f"at least {min_version} is wanted, {current.name} would answer")
        return await self.load(found)

    @contextlib.contextmanager
    def using(self, *versions: LoadedVersion) -> Iterator[None]:
        """While a request is answered by `versions`: inside the block they stay in memory."""
        names = {version.name for version in versions}
        self._users.update(names)
        try:
            yield
        finally:
            self._users -= Counter(names)
            self._evict_soon()

    async def make_current(self, name: str) -> None:
        """Load `name` beside the running version, then swap: the requests in flight keep theirs."""
        self._current = await self.load(name)
        self._evict_soon()

    async def load(self, name: str) -> LoadedVersion:
        """The version in memory, brought from disk if need be, once for all who wait for it.

        Raises VersionUnavailableError (409) where the store has no such version, and what `load`
        raised; then nothing has changed.
        """
        if _checked(name) not in self._loaded:
            self._users[name] += 1  # who waits for a version uses it
            try:
                await self._brought(name)
            finally:
                self._users -= Counter([name])
                self._evict_soon()
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def keep(self, source: str, names: Collection[str]) -> None:
        """From now on `source` holds `names`, and no longer what it held before: those in memory, and those
        that come there, stay."""
        self._held[source] = frozenset(names)
        self._evict_soon()

    async def hold(self, source: str, names: Collection[str]) -> None:
        """`keep`, once all of them are in memory; where one cannot be loaded, `source` goes on holding what
        it held, and that is raised."""
        before = kept = self._held.get(source, frozenset())
        self._held[source] = before | frozenset(names)
        try:
            for name in names:
                await self.load(name)
            kept = frozenset(names)
        finally:
            self.keep(source, kept)

    async def _brought(self, name: str) -> None:
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._bring(name), name=f"load-{name}")
        await asyncio.shield(self._loading[name])  # who goes away does not end it for the others

    async def _bring(self, name: str) -> None:
        try:
            self._loaded[name] = await self._load(name)
        except UnknownVersionError as error:
            raise await self._unavailable(error.message) from error
        finally:
            del self._loading[name]
        self._counted(len(self._loaded))
        self._evict_soon()

    def _evict_soon(self) -> None:
        """After whoever was just handed a version had the time to say that he uses it."""
        if len(self._loaded) > self._keep_loaded:
            asyncio.get_running_loop().call_soon(self._evict)

    def _evict(self) -> None:
        needed = {self.current_name, *self._users, *(name for names in self._held.values() for name in names)}
        idle = [name for name in self._loaded if name not in needed]
        for name in idle[: max(0, len(self._loaded) - self._keep_loaded)]:
            del self._loaded[name]
        self._counted(len(self._loaded))

    async def _labelled(self, label: str) -> str:
        if label not in self.labels:
            raise await self._unavailable(f"there is no label {label!r}")
        return self.labels[label].version

    async def _unavailable(self, why: str) -> VersionUnavailableError:
        on_disk, withdrawn = await asyncio.to_thread(lambda: (self._store.names(), self._store.withdrawn()))
        return VersionUnavailableError(
            f"{why}; loaded: {', '.join(self.loaded_names) or 'none'}; on disk: {', '.join(on_disk) or 'none'}",
            current=self.current_name,
            loaded=self.loaded_names,
            on_disk=on_disk,
            withdrawn=withdrawn,
            labels={label: target.version for label, target in self.labels.items()},
        )


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidRequestError(f"{name!r} is not a version name, such as v000003")
    return name


def _one_from(store: VersionStore, least: int, loaded: Collection[str]) -> str | None:
    """Of the versions in memory or on disk that are at least `least`: the one the pointer names, else the
    oldest that was not rolled back from."""
    here = {*store.names(), *loaded} - {*store.withdrawn()}
    enough = sorted((name for name in here if version_number(name) >= least), key=version_number)
    with contextlib.suppress(InvalidVersionError):  # a broken pointer is the swapper's to report
        pointed = store.current()
        if pointed in enough:
            return pointed
    return enough[0] if enough else None
