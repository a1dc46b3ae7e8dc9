"""The versions in memory: each request captures one, and one assignment swaps the current one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from metarm.store.versions import NAME, Label, VersionStore, some, version_number

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVersion:
    """A version in memory: its name, its model, the calibration of its raw rewards, and its manifest."""

    name: str
    model: RewardModel
    calibration: Calibration = IDENTITY
    manifest: Mapping[str, Any] = field(default_factory=dict)


class CaptureGate:
    """Holds new requests before they capture the current version, while servers cut over. Lives on the event
    loop. Requests that have captured a version, or pin one, are not held."""

    def __init__(self) -> None:
        self._opening: asyncio.Event | None = None  # while closed

    def close(self) -> None:
        if self._opening is None:
            self._opening = asyncio.Event()

    def open(self) -> None:
        if self._opening is not None:
            self._opening.set()
            self._opening = None

    async def passed(self) -> None:
        """Return once the gate is open. It is still open for a caller that captures the current version before
        its next await."""
        while self._opening is not None:
            await self._opening.wait()


class LiveVersions:
    """Lives on the event loop. Beyond `keep_loaded` versions, the least recently used ones are evicted, but
    never the current one, one that is held, or one that a request uses (`using`). A version over the limit is
    evicted when its last hold or use ends."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[LoadedVersion]],
        keep_loaded: int,
        store: VersionStore,
        on_count: Callable[[int], None] = lambda _: None,
        why_none: Callable[[], NotReadyError] = lambda: NotReadyError("no reward model is loaded"),
    ) -> None:
        """`load` loads a version from disk, off the event loop, verified and warmed up. `on_count` receives the
        number of versions in memory. `why_none` makes the error of a request while no version is current."""
        self._load = load
        self._keep_loaded = keep_loaded
        self._store = store
        self._on_count = on_count
        self._why_none = why_none
        self._loaded: OrderedDict[str, LoadedVersion] = OrderedDict()  # least recently used first
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._users: Counter[str] = Counter()
        self._held: dict[str, frozenset[str]] = {}
        self._background_loads: dict[tuple[str, str], asyncio.Task[None]] = {}  # by source and name
        self._unloadable: set[tuple[str, str]] = set()  # those whose failure was logged
        self._current: LoadedVersion | None = None
        self.gate = CaptureGate()
        self.labels: Mapping[str, Label] = {}  # as last read from the store

    @property
    def current_name(self) -> str | None:
        return self._current.name if self._current else None

    @property
    def loaded_names(self) -> list[str]:
        return sorted(self._loaded, key=version_number)

    def current(self) -> LoadedVersion:
        """Raises NotReadyError, which says why, if there is none."""
        if self._current is None:
            raise self._why_none()
        return self._current

    def is_loading(self, name: str) -> bool:
        return name in self._loading

    def loaded(self, name: str) -> LoadedVersion | None:
        """The version if it is in memory now."""
        return self._loaded.get(name)

    async def get(self, version: str | None, min_version: str | None) -> LoadedVersion:
        """The one version that answers a request; enter `using` before the next await.

        `version`, a name or a label, pins it. Without a pin, once the gate is open, the current version answers
        if it is at least `min_version`; otherwise the version that the store's pointer names or the oldest that
        was not rolled back, if it is new enough. Raises VersionUnavailableError (409) if there is none, with a
        list of this server's newest versions.
        """
        least = 0 if min_version is None else version_number(_valid_name(min_version))
        if version is not None:
            name = version if NAME.fullmatch(version) else await self._label_target(version)
            if version_number(name) < least:
                raise await self._unavailable(f"{name} is older than the min_version {min_version}")
            return await self.load(name)
        await self.gate.passed()  # no await between this and the capture
        current = self.current()
        if min_version is None or version_number(current.name) >= least:
            return current
        found = await asyncio.to_thread(_fallback_version, self._store, least, self.loaded_names)
        if found is None:
            raise await self._unavailable(f"no version is at least {min_version}; {current.name} is current")
        return await self.load(found)

    @contextlib.contextmanager
    def using(self, *versions: LoadedVersion) -> Iterator[None]:
        """Inside the block `versions` stay in memory: a request uses them."""
        names = {version.name for version in versions}
        self._users.update(names)
        try:
            yield
        finally:
            self._users -= Counter(names)
            self._evict_soon()

    async def make_current(self, name: str) -> None:
        """Load `name` while the current version serves, then swap: requests in flight keep their version."""
        self._current = await self.load(name)
        self._evict_soon()

    async def load(self, name: str) -> LoadedVersion:
        """The version in memory, loaded from disk if necessary, once for all callers that wait for it.

        Raises VersionUnavailableError (409) if the store has no such version, and what `load` raised; then
        nothing has changed.
        """
        if _valid_name(name) not in self._loaded:
            self._users[name] += 1  # waiting for a version is using it
            try:
                await self._load_once(name)
            finally:
                self._users -= Counter([name])
                self._evict_soon()
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def hold_soon(self, source: str, names: Collection[str]) -> None:
        """Make `source` (labels, leases) hold `names` and no others. Versions that are not in memory are loaded
        in the background; a failure to load one is logged once."""
        self._set_held(source, names)
        self._unloadable = {(by, name) for by, name in self._unloadable if by != source or name in names}
        for name in names:
            if name not in self._loaded and (source, name) not in self._background_loads:
                task = asyncio.create_task(self._load_in_background(source, name), name=f"{source}-{name}")
                self._background_loads[source, name] = task

    async def hold(self, source: str, names: Collection[str]) -> None:
        """Make `source` hold `names` and no others; all are in memory when this returns. If one cannot be
        loaded, raises its error, and `source` holds the same names as before."""
        before = kept = self._held.get(source, frozenset())
        self._held[source] = before | frozenset(names)
        try:
            for name in names:
                await self.load(name)
            kept = frozenset(names)
        finally:
            self._set_held(source, kept)

    async def close(self) -> None:
        """End the loads in the background."""
        loads = list(self._background_loads.values())
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    def _set_held(self, source: str, names: Collection[str]) -> None:
        self._held[source] = frozenset(names)
        self._evict_soon()

    async def _load_in_background(self, source: str, name: str) -> None:
        try:
            await self.load(name)
        except Exception as error:  # noqa: BLE001 (logged; the source asks again in its next turn)
            if (source, name) not in self._unloadable:
                log.warning("%s name %s, which cannot be loaded: %s", source, name, error)
                self._unloadable.add((source, name))
        finally:
            del self._background_loads[source, name]

    async def _load_once(self, name: str) -> None:
        if name not in self._loading:
            load = asyncio.create_task(self._load_from_disk(name), name=f"load-{name}")
            load.add_done_callback(_retrieve)
            self._loading[name] = load
        await asyncio.shield(self._loading[name])  # a caller that is cancelled does not end it for the others

    async def _load_from_disk(self, name: str) -> None:
        try:
            self._loaded[name] = await self._load(name)
        except UnknownVersionError as error:
            raise await self._unavailable(error.message) from error
        finally:
            del self._loading[name]
        self._on_count(len(self._loaded))
        self._evict_soon()

    def _evict_soon(self) -> None:
        """Evict in the event loop's next turn, so that a caller that just got a version can enter `using`."""
        if len(self._loaded) > self._keep_loaded:
            asyncio.get_running_loop().call_soon(self._evict)

    def _evict(self) -> None:
        needed = {self.current_name, *self._users, *(name for names in self._held.values() for name in names)}
        idle = [name for name in self._loaded if name not in needed]
        for name in idle[: max(0, len(self._loaded) - self._keep_loaded)]:
            del self._loaded[name]
        self._on_count(len(self._loaded))

    async def _label_target(self, label: str) -> str:
        if label not in self.labels:
            hint = ": leave it out to get the current version" if label == "current" else ""
            raise await self._unavailable(f"there is no label {label!r}{hint}")
        return self.labels[label].version

    async def _unavailable(self, why: str) -> VersionUnavailableError:
        try:
            names, withdrawn = await asyncio.to_thread(lambda: (self._store.names(), self._store.withdrawn()))
        except (OSError, InvalidVersionError) as error:
            return VersionUnavailableError(
                f"{why}; the store cannot be read: {error}",
                state="store_unreadable",
                current=self.current_name,
                loaded=self.loaded_names,
            )
        none = self._why_none() if self._current is None else None
        on_disk = some("on_disk", names)
        loaded, newest = ", ".join(self.loaded_names), ", ".join(on_disk["on_disk"])
        more = f" (the newest of {len(names)})" if "on_disk_count" in on_disk else ""
        lists = f"loaded: {loaded or 'none'}; on disk: {newest or 'none'}{more}"
        return VersionUnavailableError(
            f"{why}; {lists}; {none.message}" if none else f"{why}; {lists}",
            **({"state": none.details["state"]} if none and "state" in none.details else {}),
            current=self.current_name,
            loaded=self.loaded_names,
            **on_disk,
            **some("withdrawn", withdrawn),
            labels={label: target.version for label, target in self.labels.items()},
        )


def _retrieve(load: asyncio.Task[None]) -> None:
    """Take the error of a load whose callers may all have left: the loader has recorded it."""
    if not load.cancelled():
        load.exception()


def _valid_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidRequestError(f"{name!r} is not a version name, such as v000003")
    return name


def _fallback_version(store: VersionStore, least: int, loaded: Collection[str]) -> str | None:
    """Of the versions in memory or on disk with a number of at least `least`: the one that the pointer names,
    else the oldest that was not rolled back."""
    available = {*store.names(), *loaded} - {*store.withdrawn()}
    enough = sorted((name for name in available if version_number(name) >= least), key=version_number)
    with contextlib.suppress(InvalidVersionError):  # the swapper reports a broken pointer
        pointed = store.current()
        if pointed in enough:
            return pointed
    return enough[0] if enough else None
