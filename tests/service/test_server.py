"""The start and end of a server's parts, in this process: real Redis, a real tiny model, no HTTP."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from metarm.errors import NotReadyError
from metarm.runtime.idle_memory import IdleMemory
from metarm.shared.coordinator import Coordinator
from metarm.shared.fleet import Fleet
from metarm.store.versions import VersionStore
from service import server
from service.oversight.oversight import Oversight
from service.oversight.watch import Watch
from service.scoring.scorer import Scorer
from service.server import Server
from service.settings import ServiceSettings
from service.telemetry.load_monitor import LoadMonitor
from service.telemetry.metrics import Metrics
from service.versions.loader import VersionLoader
from service.versions.membership import Membership
from service.versions.versions import Versions
from tests.processes import RedisProcess
from tests.store import publish
from tests.tiny import Kind

Checkpoint = Callable[[Kind], Path]
OURS = ("sample-writer", "membership", "forward", "loader", "tokenizer")


@pytest.fixture
def settings(tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint) -> ServiceSettings:
    publish(tmp_path, checkpoint("bert"))
    return ServiceSettings(
        data_dir=tmp_path, redis_url=redis_process.url, tune=False, poll_ms=10, watch_groups=0
    )


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(OURS)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 (the condition sets no event)
            await asyncio.sleep(0.005)


def test_a_failed_start_stops_the_parts_already_started(
    settings: ServiceSettings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def fails(*_: object, **__: object) -> NoReturn:
        seen.append((our_threads(), len(Fleet(redis_client).live())))
        raise RuntimeError("no oversight")

    monkeypatch.setattr(Oversight, "__init__", fails)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="no oversight"):
            async with server.running(settings, Metrics(), LoadMonitor()):
                raise AssertionError("it cannot have started")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    ((threads, registered),) = seen
    assert {"sample-writer", "membership"} <= set(threads)
    assert registered == 1
    assert our_threads() == []
    assert Fleet(redis_client).live() == []


def open_sockets() -> list[str]:
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(link for link in links if link.startswith("socket:"))


@pytest.mark.parametrize(
    ("owner", "part"),
    [
        (Scorer, "__init__"),
        (Versions, "__init__"),
        (VersionLoader, "__init__"),
        (Membership, "__init__"),
        (Membership, "join"),
        (Membership, "after its thread has started"),
        (Coordinator, "__init__"),
        (Watch, "__init__"),
        (Oversight, "running"),
        (IdleMemory, "__init__"),
    ],
)
def test_a_failed_start_leaves_no_thread_task_or_socket(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch, owner: type, part: str
) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise SystemError("a part fails")  # of a kind that nothing expects

    if part == "after its thread has started":
        joined = Membership.join

        async def join(membership: Membership) -> None:
            await joined(membership)
            fails()

        monkeypatch.setattr(Membership, "join", join)
    else:
        monkeypatch.setattr(owner, part, fails)

    async def main() -> None:
        with pytest.raises(SystemError, match="a part fails"):
            async with server.running(settings, Metrics(), LoadMonitor()):
                raise AssertionError("it cannot have started")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = open_sockets()
    asyncio.run(main())
    deadline = time.monotonic() + 30
    while our_threads():
        assert time.monotonic() < deadline, our_threads()
        time.sleep(0.005)
    assert open_sockets() == before


def test_a_store_error_stops_no_loop_and_is_reported_until_it_is_resolved(
    settings: ServiceSettings, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = threading.Event()
    read = VersionStore.current

    def current(self: VersionStore) -> str | None:
        if stale.is_set():
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(self)

    monkeypatch.setattr(VersionStore, "current", current)

    def degraded(running: Server) -> set[str]:
        return {f"{part}: {reason}" for part, reason in running.oversight.health.report().degraded}

    async def main() -> None:
        metrics = Metrics()
        async with server.running(settings, metrics, LoadMonitor()) as running:
            assert running.versions.live.current_name == "v000001"
            assert not any("loop" in reason for reason in degraded(running))
            stale.set()
            await until(lambda: any("loop: swapper" in it and "Stale" in it for it in degraded(running)))
            assert running.versions.live.current_name == "v000001"
            name = b'rm_loop_failures_total{loop="swapper"}'
            assert name in metrics.render()
            stale.clear()
            publish(settings.data_dir, checkpoint("bert"))
            await until(lambda: running.versions.live.current_name == "v000002")
            await until(lambda: not any("loop" in reason for reason in degraded(running)))

    asyncio.run(main())
    assert our_threads() == []


def test_unreadable_labels_keep_their_last_state_and_do_not_prevent_a_start(
    settings: ServiceSettings,
) -> None:
    labels = settings.store.root / "labels.json"
    labels.write_text("{")

    async def main() -> None:
        async with server.running(settings, Metrics(), LoadMonitor()) as running:
            live, health = running.versions.live, running.oversight.health
            await until(lambda: any("labels" in reason for _, reason in health.report().degraded))
            labels.write_text('{"stable": {"version": "v000001"}}')
            await until(lambda: live.labels["stable"].version == "v000001" if live.labels else False)
            labels.write_text("[]")
            await until(lambda: any("labels" in reason for _, reason in health.report().degraded))
            assert (await live.get("stable", None)).name == "v000001"

    asyncio.run(main())


def test_a_redis_that_answers_but_takes_no_writes_is_reported(
    settings: ServiceSettings, redis_client: redis.Redis
) -> None:
    async def main() -> None:
        async with server.running(settings, Metrics(), LoadMonitor()) as running:

            def reported() -> bool:
                report = running.oversight.health.report()
                return report.redis and any(
                    part == "loop" and "membership" in reason and "ReadOnlyError" in reason
                    for part, reason in report.degraded
                )

            redis_client.replicaof("127.0.0.1", "1")
            try:
                await until(reported)
            finally:
                redis_client.replicaof("NO", "ONE")
            await until(lambda: not reported())

    asyncio.run(main())


def test_a_current_version_that_cannot_be_loaded_is_the_reason_for_not_being_ready(
    settings: ServiceSettings,
) -> None:
    for file in (settings.data_dir / "versions" / "v000001").glob("*.safetensors"):
        file.unlink()

    async def main() -> None:
        async with server.running(settings, Metrics(), LoadMonitor()) as running:
            with pytest.raises(NotReadyError, match=r"v000001 was refused: .*safetensors"):
                running.versions.live.current()

    asyncio.run(main())
