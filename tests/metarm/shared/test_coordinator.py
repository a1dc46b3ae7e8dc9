"""The coordinator against scripted servers, on a real Redis and a real store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from metarm.errors import CutOverAbortedError, ReadOnlyStoreError, UnknownVersionError
from metarm.shared.coordinator import HOLD_S, RENAME_WITHIN_S, Coordinator, HoldTimes
from metarm.shared.cut_over import CutOverBoard
from metarm.store.versions import VersionStore
from tests.processes import BUSY_S, RedisProcess
from tests.scripted_server import ScriptedServer as Server
from tests.store import weightless_store


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    """Two published versions, the first of them current."""
    return weightless_store(tmp_path, 2)


@pytest.fixture
def make_coordinator(quick: redis.Redis, store: VersionStore) -> Callable[..., Coordinator]:
    def make(prepare_s: float = 10.0, **times: float) -> Coordinator:
        return Coordinator(quick, store, name="test", prepare_s=prepare_s, times=HoldTimes(**times))  # type: ignore[arg-type]

    return make


Make = Callable[..., Coordinator]


def test_without_servers_the_pointer_moves_directly(make_coordinator: Make, store: VersionStore) -> None:
    assert make_coordinator().promote("v000002") == []
    assert store.current() == "v000002"


def test_the_pointer_moves_only_while_all_servers_hold(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store) as a, Server("b", quick, store) as b:
        assert make_coordinator().promote("v000002") == ["a", "b"]
        for server in (a, b):
            server.wait_until_seen("go")
    for server in (a, b):
        assert server.seen["prepare"] == "v000001"
        assert server.seen["go"] == "v000002"
    assert store.current() == "v000002"


def test_a_single_server_holds_no_requests(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store) as a:
        assert make_coordinator().promote("v000002") == ["a"]
        a.wait_until_seen("go")
    assert "hold" not in a.seen
    assert a.seen["go"] == "v000002"


def test_a_rejection_keeps_all_servers_on_the_old_version_and_names_the_server_and_the_reason(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store) as a, Server("b", quick, store, says="refused: its weights are NaN"):
        with pytest.raises(CutOverAbortedError, match="b: its weights are NaN") as raised:
            make_coordinator().promote("v000002")
        a.wait_until_seen("abort")
    assert raised.value.details["servers"] == {"b": "its weights are NaN"}
    assert raised.value.retry_after_s is None
    assert store.current() == "v000001"
    assert not a.seen.keys() & {"hold", "go"}


def test_a_server_that_loads_too_slowly_is_named_in_the_error(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with (
        Server("a", quick, store),
        Server("b", quick, store, says=""),
        pytest.raises(CutOverAbortedError, match=r"b: had not loaded it within 0.3 s") as raised,
    ):
        make_coordinator(prepare_s=0.3).promote("v000002")
    assert raised.value.retry_after_s
    assert store.current() == "v000001"


def test_a_server_that_does_not_hold_is_named_and_the_hold_ends_within_its_time_limit(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store), Server("b", quick, store, holds=False):
        started = time.monotonic()
        with pytest.raises(CutOverAbortedError, match="b: did not hold"):
            make_coordinator(attempts=1).promote("v000002")
        assert time.monotonic() - started < HOLD_S + BUSY_S
    state = CutOverBoard(quick).state()
    assert state is not None
    assert (state.phase, store.current()) == ("abort", "v000001")


def test_a_server_that_dies_during_the_hold_is_excluded_from_the_next_attempt(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store), Server("b", quick, store, holds=False) as b:
        b.register(lifetime_ms=1000)  # its last registration
        assert make_coordinator(pause_s=0.6).promote("v000002") == ["a"]
    assert store.current() == "v000002"


def test_a_server_that_dies_while_others_load_is_excluded(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store), Server("b", quick, store, says="") as b:
        b.register(lifetime_ms=200)
        assert make_coordinator().promote("v000002") == ["a"]
    assert store.current() == "v000002"


def test_only_one_cut_over_runs_at_a_time(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store, says=""):
        CutOverBoard(quick).begin("theirs", "v000009", "somebody", 60_000)
        with pytest.raises(CutOverAbortedError, match="v000009 is running"):
            make_coordinator(attempts=1).promote("v000002")
    assert store.current() == "v000001"


def test_a_dead_coordinator_does_not_block_another(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store):
        CutOverBoard(quick).begin("theirs", "v000009", "somebody", 100)
        time.sleep(0.15)
        assert make_coordinator().promote("v000002") == ["a"]


def test_servers_that_end_the_hold_before_the_pointer_moves_keep_the_old_version(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = make_coordinator(attempts=1, move_within_s=30.0, rename_within_s=30.0)
    board, activate = CutOverBoard(quick), VersionStore.activate

    def slow_activate(self: VersionStore, name: str, *still: Callable[[], bool]) -> bool:
        state = board.state()
        assert state is not None
        board.move(state.id, "hold", "abort", "a could not hold any longer")
        return activate(self, name, *still)

    with Server("a", quick, store), Server("b", quick, store):
        monkeypatch.setattr(VersionStore, "activate", slow_activate)
        with pytest.raises(CutOverAbortedError, match="could not hold any longer"):
            patient.promote("v000002")
    assert store.current() == "v000001"


def link_identity(link: Path) -> tuple[int, int]:
    """The inode and modification time of a link. Each move of the pointer replaces the link."""
    found = link.lstat()
    return found.st_ino, found.st_mtime_ns


def test_the_pointer_does_not_move_when_the_hold_would_end_first(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdrawn, slow = VersionStore.withdrawn, [RENAME_WITHIN_S]

    def on_a_slow_disk(self: VersionStore) -> list[str]:
        if slow:
            time.sleep(slow.pop())
        return withdrawn(self)

    monkeypatch.setattr(VersionStore, "withdrawn", on_a_slow_disk)  # `activate` reads the list before the move
    pointer = link_identity(store.root / "current")
    with Server("a", quick, store) as a, Server("b", quick, store):
        with pytest.raises(CutOverAbortedError, match=r"a: would have ended its hold .*; b: would have ended"):
            make_coordinator(attempts=1).promote("v000002")
        a.wait_until_seen("abort")
        assert link_identity(store.root / "current") == pointer  # it never moved, so no server followed it
        assert not slow
        assert make_coordinator().promote("v000002") == ["a", "b"]
    assert store.current() == "v000002"


def test_a_pointer_that_cannot_be_moved_aborts(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bool:
        raise OSError("no space left on device")

    monkeypatch.setattr(VersionStore, "activate", full)
    with Server("a", quick, store) as a, Server("b", quick, store):
        with pytest.raises(OSError, match="no space"):
            make_coordinator().promote("v000002")
        a.wait_until_seen("abort")


def test_without_redis_the_pointer_moves_without_a_cut_over(
    make_coordinator: Make, redis_process: RedisProcess, store: VersionStore
) -> None:
    redis_process.__exit__()
    assert make_coordinator().promote("v000002") == []
    assert store.current() == "v000002"


def test_a_promotion_that_is_not_together_contacts_no_server(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store, says="refused: no") as a:
        assert make_coordinator().promote("v000002", together=False) == []
    assert store.current() == "v000002"
    assert a.seen == {}


def test_an_unknown_version_or_a_read_only_store_raises_an_error_before_a_server_is_contacted(
    make_coordinator: Make, quick: redis.Redis, store: VersionStore
) -> None:
    with Server("a", quick, store) as a:
        with pytest.raises(UnknownVersionError):
            make_coordinator().promote("v000009")
        (store.root / ".lock").unlink()
        (store.root / ".lock").mkdir()  # cannot be opened, like a lock file in a directory mounted read-only
        with pytest.raises(ReadOnlyStoreError):
            make_coordinator().promote("v000002")
    assert a.seen == {}
