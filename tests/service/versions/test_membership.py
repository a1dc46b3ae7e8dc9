"""A server's part in a cut-over, with the test as coordinator: real Redis, store and swapper, no weights."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from metarm.errors import InvalidVersionError
from metarm.model.reward_model import RewardModel
from metarm.runtime.loops import Loops
from metarm.shared.connection import connect
from metarm.shared.coordinator import COMMAND_TIMEOUT_S, HOLD_S, READ_POINTER_AFTER_S
from metarm.shared.cut_over import CutOver, CutOverBoard, Phase
from metarm.shared.fleet import Fleet, ServiceRecord
from metarm.store.versions import VersionStore
from service.versions.live import LiveVersions, LoadedVersion
from service.versions.membership import IDLE_POLL_S, Membership
from service.versions.refusals import Refusals
from service.versions.swapper import Swapper
from tests.processes import BUSY_S, RedisProcess
from tests.store import publish_weightless, weightless_store

LEASE_MS = 60_000
HELD_S = 30.0  # long enough that only the test ends a hold


@dataclass
class Member:
    """One server, and the steps of a cut-over that a test performs on it."""

    store: VersionStore
    live: LiveVersions
    swapper: Swapper
    membership: Membership
    board: CutOverBoard
    holds: list[tuple[str, float]]
    broken: set[str] = field(default_factory=set)

    async def wait_for_report(self, id_: str, said: str) -> None:
        await until(lambda: self._state(id_).servers[self.membership.id].startswith(said))

    async def begin(self, version: str, id_: str = "c1") -> None:
        await asyncio.to_thread(self.board.begin, id_, version, "test", LEASE_MS)

    async def begin_hold(self, version: str) -> None:
        """Begin a cut-over and wait until this member holds."""
        await self.begin(version)
        await self.wait_for_report("c1", "ready")
        await self.move("prepare", "hold")
        await self.wait_for_report("c1", "held")

    async def move(self, now: Phase, to: Phase) -> None:
        await asyncio.to_thread(self.board.move, "c1", now, to, "", LEASE_MS)

    async def captured(self) -> str:
        return (await self.live.get(None, None)).name

    def _state(self, id_: str) -> CutOver:
        state = self.board.state()
        assert state is not None
        assert state.id == id_
        return state


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return weightless_store(tmp_path, 3)


@asynccontextmanager
async def member(
    store: VersionStore,
    server: RedisProcess,
    *,
    joined: bool = True,
    read_pointer_after_s: float = READ_POINTER_AFTER_S,
    idle_poll_s: float = IDLE_POLL_S,
) -> AsyncIterator[Member]:
    broken: set[str] = set()
    holds: list[tuple[str, float]] = []

    async def load(name: str) -> LoadedVersion:
        await asyncio.sleep(0.01)
        if name in broken:
            raise InvalidVersionError(f"{name}: its weights are NaN")
        return LoadedVersion(name, cast("RewardModel", None))

    live = LiveVersions(load, 3, store)
    swapper = Swapper(store, live, Refusals(store, lambda: None), lambda _: None)
    client = connect(server.url, COMMAND_TIMEOUT_S)
    membership = Membership(
        client,
        store,
        live,
        swapper,
        url="http://here",
        on_hold=lambda *how: holds.append(how),
        loop=Loops().add("membership"),
        read_pointer_after_s=read_pointer_after_s,
        idle_poll_s=idle_poll_s,
    )
    board = CutOverBoard(redis.Redis.from_url(server.url))
    made = Member(store, live, swapper, membership, board, holds, broken)
    if joined:
        await membership.join()
    try:
        yield made
    finally:
        server.kill(signal.SIGCONT)
        await asyncio.to_thread(membership.close)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_unpinned_requests_wait_between_hold_and_go_and_pinned_requests_do_not(
    store: VersionStore, redis_process: RedisProcess
) -> None:
    async def test() -> None:
        async with member(store, redis_process, read_pointer_after_s=HELD_S) as one:
            await one.begin_hold("v000002")
            waiting = asyncio.create_task(one.captured())
            assert (await one.live.get("v000001", None)).name == "v000001"
            await asyncio.sleep(0.05)
            assert not waiting.done()
            store.activate("v000002")
            await one.move("hold", "go")
            assert await waiting == "v000002"
            await until(lambda: [outcome for outcome, _ in one.holds] == ["go"])

    run(test)


@pytest.mark.slow
def test_a_server_reports_its_new_version_immediately_after_a_cut_over(
    store: VersionStore, redis_process: RedisProcess, redis_client: redis.Redis
) -> None:
    async def test() -> None:
        # the next poll is later than the test's limit, so the server must report without it
        async with member(store, redis_process, read_pointer_after_s=HELD_S, idle_poll_s=12.0) as one:
            await one.begin_hold("v000002")
            store.activate("v000002")
            await one.move("hold", "go")
            await until(lambda: [r.serving for r in Fleet(redis_client).live()] == ["v000002"], timeout_s=9.0)

    run(test)


def test_an_abort_releases_waiting_requests_to_the_old_version(
    store: VersionStore, redis_process: RedisProcess
) -> None:
    async def test() -> None:
        async with member(store, redis_process, read_pointer_after_s=HELD_S) as one:
            await one.begin_hold("v000002")
            waiting = asyncio.create_task(one.captured())
            await one.move("hold", "abort")
            assert await waiting == "v000001"

    run(test)


@pytest.mark.parametrize(
    ("redis_answers", "pointer_moved", "expected"),
    [
        (True, False, "v000001"),
        (True, True, "v000002"),
        (False, False, "v000001"),
        (False, True, "v000002"),
    ],
)
def test_an_abandoned_hold_ends_by_itself_on_the_version_that_the_pointer_names(
    store: VersionStore, redis_process: RedisProcess, redis_answers: bool, pointer_moved: bool, expected: str
) -> None:
    async def test() -> None:
        async with member(store, redis_process) as one:
            await one.begin("v000002")
            await one.wait_for_report("c1", "ready")
            if pointer_moved:
                store.activate("v000002")  # no server here follows the pointer by itself
            held = time.monotonic()
            await one.begin_hold("v000002")
            if not redis_answers:
                redis_process.kill(signal.SIGSTOP)
            assert await one.captured() == expected
            assert time.monotonic() - held < HOLD_S + BUSY_S
            if redis_answers:
                state = one.board.state()
                assert state is not None
                assert state.phase == ("go" if pointer_moved else "abort")

    run(test)


def test_a_version_that_does_not_load_is_refused_with_its_reason(
    store: VersionStore, redis_process: RedisProcess
) -> None:
    async def test() -> None:
        async with member(store, redis_process) as one:
            one.broken.add("v000002")
            await one.begin("v000002")
            await one.wait_for_report("c1", "refused: v000002: its weights are NaN")
            assert one.swapper.refused is None  # the pointer has not moved; the loader records the refusal
            assert await one.captured() == "v000001"

    run(test)


def test_a_prepared_version_stays_in_memory_until_the_cut_over_ends(
    store: VersionStore, redis_process: RedisProcess
) -> None:
    async def test() -> None:
        async with member(store, redis_process) as one:
            await one.begin("v000002")
            await one.wait_for_report("c1", "ready")
            for _ in range(4):
                await one.live.get(publish_weightless(store), None)
            assert "v000002" in one.live.loaded_names

    run(test)


def test_a_lone_server_cuts_over_without_a_hold(store: VersionStore, redis_process: RedisProcess) -> None:
    async def test() -> None:
        async with member(store, redis_process) as one:
            await one.begin("v000002")
            await one.wait_for_report("c1", "ready")
            await one.move("prepare", "go")
            await until(lambda: one.live.current_name == "v000002")
            assert one.holds == []

    run(test)


def test_a_server_that_starts_during_a_cut_over_joins_only_after_it_has_ended(
    store: VersionStore, redis_process: RedisProcess
) -> None:
    async def test() -> None:
        async with member(store, redis_process, joined=False) as one:
            fleet = Fleet(redis.Redis.from_url(redis_process.url))
            fleet.renew(ServiceRecord("other", "", 0, None, [], 0.0), LEASE_MS)
            await one.begin("v000002")
            joining = asyncio.create_task(one.membership.join())
            await asyncio.sleep(0.2)
            assert not joining.done()
            store.activate("v000002")
            await one.move("prepare", "go")
            await joining
            assert one.live.current_name == "v000002"
            assert {record.id for record in fleet.live()} == {"other", one.membership.id}

    run(test)


def test_a_server_registers_when_redis_becomes_available_and_unregisters_on_shutdown(
    store: VersionStore, redis_process: RedisProcess
) -> None:
    fleet = Fleet(redis.Redis.from_url(redis_process.url))

    async def test() -> None:
        redis_process.kill(signal.SIGSTOP)
        async with member(store, redis_process) as one:
            assert await one.captured() == "v000001"
            redis_process.kill(signal.SIGCONT)
            await until(lambda: [record.serving for record in fleet.live()] == ["v000001"])

    run(test)
    assert fleet.live() == []


def test_a_server_takes_part_in_cut_overs_again_after_a_killed_redis_restarts(
    store: VersionStore, redis_process: RedisProcess
) -> None:
    async def test() -> None:
        async with member(store, redis_process, read_pointer_after_s=HELD_S) as one:
            redis_process.kill(signal.SIGKILL)
            redis_process.wait()
            assert await one.captured() == "v000001"
            await asyncio.sleep(0.5)
            redis_process.start()
            fleet = Fleet(redis.Redis.from_url(redis_process.url))
            await until(lambda: [record.id for record in fleet.live()] == [one.membership.id])
            await one.begin_hold("v000002")
            store.activate("v000002")
            await one.move("hold", "go")
            assert await one.captured() == "v000002"

    run(test)
