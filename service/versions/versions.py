"""The versions of one server: the parts that hold, load, swap and pin them, constructed here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import redis

from metarm.errors import NotReadyError
from metarm.model.reward_model import RewardModel
from metarm.runtime.addresses import url_of
from metarm.runtime.loops import Loops
from metarm.shared.connection import connect
from metarm.shared.coordinator import COMMAND_TIMEOUT_S, Coordinator
from metarm.shared.fleet import Fleet
from metarm.shared.leases import LeaseBoard
from metarm.shared.presence import TrainerPresence
from metarm.shared.store_commands import StoreCommands
from metarm.store.versions import Label
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.versions import leases
from service.versions.administration import Administration
from service.versions.labels import Labels
from service.versions.leases import Leases
from service.versions.live import LiveVersions, LoadedVersion
from service.versions.loader import VersionLoader
from service.versions.membership import Membership
from service.versions.not_ready import not_ready
from service.versions.refusals import Refusals
from service.versions.swapper import Swapper

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Activation:
    """The version the pointer names, the version this server scores with, and the servers that cut over
    together (none if each server follows the pointer alone)."""

    current: str
    serving: str | None
    servers: Sequence[str]


class Versions:
    """Lives on the event loop, from `running` to its end."""

    def __init__(
        self,
        settings: ServiceSettings,
        client: redis.Redis,
        metrics: Metrics,
        loops: Loops,
        presence: TrainerPresence,
        prepare: Callable[[RewardModel], None],
    ) -> None:
        """`presence` is read regularly, elsewhere. `prepare` makes a loaded model ready to serve, in the
        loader's thread."""
        store, prepare_s = settings.store, settings.cut_over_prepare_s
        self.store = store
        self._presence = presence
        self.refusals = Refusals(store, metrics.swaps.labels("refused").inc)
        self._loader = VersionLoader(
            store,
            settings.max_tokens,
            share_prompts=settings.prefix_sharing,
            reduced=settings.score_dtype == "bfloat16",
            calibrated=settings.calibration,
            prepare=prepare,
            on_load=metrics.load_seconds.observe,
        )
        self._count_load = metrics.count_load
        self.live = LiveVersions(
            self._load, settings.keep_loaded, store, metrics.versions_loaded.set, self._not_ready
        )
        self.swapper = Swapper(store, self.live, self.refusals, lambda _: metrics.swaps.labels("swapped").inc())
        most_versions = settings.max_labelled_versions
        self._labels = Labels(store, self.live, most_labels=settings.max_labels, most_versions=most_versions)
        self._labelling = asyncio.Lock()  # so that changes at one server do not exceed the limits together
        board = LeaseBoard(client, most_leases=settings.max_leases, most_versions=settings.max_leased_versions)
        self.leases = Leases(board, self.live, metrics.leases.set)
        self.fleet = Fleet(client)
        quick = connect(settings.required_redis_url, COMMAND_TIMEOUT_S)
        self._membership = Membership(
            quick,
            store,
            self.live,
            self.swapper,
            url=url_of(settings.host, settings.port, "elsewhere"),
            on_hold=metrics.observe_hold,
            loop=loops.add("membership"),
        )
        coordinator = Coordinator(quick, store, name=f"server {self._membership.id}", prepare_s=prepare_s)
        self._administration = Administration(store, coordinator, StoreCommands(client), prepare_s=prepare_s)
        self._loops = loops
        self._poll_s = settings.poll_ms / 1000

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the current version and register; then follow pointer, labels and leases inside the block."""
        async with AsyncExitStack() as stack:
            stack.callback(self._loader.close)
            stack.push_async_callback(asyncio.to_thread, self._membership.close)
            await self._membership.join()
            stack.push_async_callback(self.live.close)
            follow = self._loops.running
            await stack.enter_async_context(follow("swapper", self.swapper.follow, self._poll_s))
            await stack.enter_async_context(
                follow("labels", self._labels.follow, self._poll_s, first_turn=True)
            )
            await stack.enter_async_context(follow("leases", self.leases.follow, leases.POLL_S))
            yield

    def fault(self) -> str | None:
        """Why the version that should serve does not, for people; None if it does."""
        if self.live.current_name is None:
            return self._not_ready().message
        refused = self.swapper.refused
        return f"{refused.name} was refused: {refused.reason}" if refused else None

    def _not_ready(self) -> NotReadyError:
        return not_ready(self.live, self.swapper, self.refusals, self._presence)

    async def activate(self, name: str, reason: str, *, together: bool = True) -> Activation:
        """Make a published version the current one, on all live servers together; returns once this server
        scores with it.

        Raises VersionUnavailableError, InvalidVersionError, CutOverAbortedError (all servers stay on the
        version they had), TrainerUnavailableError if the store is read-only here and no trainer runs.
        """
        await self.live.load(name)
        before = self.live.current_name
        servers = await asyncio.to_thread(self._administration.activate, name, together=together)
        await self.swapper.follow()
        log.info("activated %s (before: %s): %s", name, before, reason, extra={"version": name})
        return Activation(current=name, serving=self.live.current_name, servers=servers)

    async def set_label(self, label: str, target: Label) -> None:
        """Create a label, or move it to a version, which is loaded first. Raises as `activate`, and
        TooManyLabelsError."""
        await self._labels.require_room(label, target)
        version = await self.live.load(target.version)
        with self.live.using(version):  # until the label holds it
            async with self._labelling:
                await self._labels.require_room(label, target)
                await asyncio.to_thread(self._administration.set_label, label, target)
            await self._labels.follow()

    async def remove_label(self, label: str) -> None:
        """Raises UnknownVersionError if there is no such label."""
        await asyncio.to_thread(self._administration.remove_label, label)
        await self._labels.follow()

    async def _load(self, name: str) -> LoadedVersion:
        version = await self.refusals.load(name, self._loader.load)
        self._count_load(name, self.live.loaded_names)
        return version
