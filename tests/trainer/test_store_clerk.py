"""The trainer writes to the store on behalf of a read-only service, with a real Redis and a real store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from metarm.errors import ReadOnlyStoreError, UnknownVersionError
from metarm.runtime.loops import Loops
from metarm.shared.coordinator import Coordinator
from metarm.shared.keys import TRAINER
from metarm.shared.presence import TrainerPresence
from metarm.shared.store_commands import Kind, StoreCommands
from metarm.store.versions import Label, VersionStore
from service.versions.administration import Administration
from tests.processes import wait_until
from tests.store import weightless_store
from trainer.heartbeat import Heartbeat
from trainer.store_clerk import StoreClerk


class ReadOnlyStore(VersionStore):
    """A store like one in a directory mounted read-only."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ReadOnlyStoreError("cannot be written from here")

    check_writable = activate = set_label = remove_label = _refuse


class Faulty(StoreCommands):
    """Raises each of `errors` once instead of serving a command."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, wait_s=0.1)
        self.errors: list[Exception] = []

    def serve_one(self, do: Callable[[Kind, Mapping[str, Any]], Any]) -> None:
        if self.errors:
            raise self.errors.pop()
        super().serve_one(do)


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return weightless_store(tmp_path, 2)


@pytest.fixture
def served(redis_client: redis.Redis) -> Faulty:
    """The command queue as the trainer sees it."""
    return Faulty(redis_client)


@pytest.fixture
def clerk(
    store: VersionStore, redis_client: redis.Redis, quick: redis.Redis, served: Faulty
) -> Iterator[StoreClerk]:
    loops = Loops(pause_s=0.01)
    heartbeat = Heartbeat(TrainerPresence(redis_client), loops, renew_s=0.01)
    assert heartbeat.take_place({"state": "ready"}, threading.Event())
    coordinator = Coordinator(quick, store, name="trainer", prepare_s=10)
    clerk = StoreClerk(served, coordinator, store, heartbeat, loops.add("store-clerk"))
    clerk.start()
    yield clerk
    clerk.close()
    heartbeat.close()


@pytest.fixture
def writes(store: VersionStore, redis_client: redis.Redis, quick: redis.Redis) -> Administration:
    """The administration of a service with a read-only store."""
    read_only = ReadOnlyStore(store.root)
    coordinator = Coordinator(quick, read_only, name="service", prepare_s=10)
    return Administration(read_only, coordinator, StoreCommands(redis_client), prepare_s=10)


@pytest.mark.usefixtures("clerk")
def test_the_trainer_moves_the_pointer_and_labels_for_the_service(
    writes: Administration, store: VersionStore
) -> None:
    assert writes.activate("v000002", together=True) == []
    assert store.current() == "v000002"
    writes.set_label("canary", Label("v000001", share=0.25, shadow=True))
    assert store.labels() == {"canary": Label("v000001", share=0.25, shadow=True)}
    writes.remove_label("canary")
    assert store.labels() == {}


@pytest.mark.usefixtures("clerk")
def test_an_error_in_the_trainer_is_raised_in_the_service(writes: Administration) -> None:
    with pytest.raises(UnknownVersionError, match="no label 'stable'"):
        writes.remove_label("stable")
    with pytest.raises(UnknownVersionError, match="v000009"):
        writes.set_label("stable", Label("v000009"))


@pytest.mark.usefixtures("clerk")
def test_a_trainer_that_has_lost_its_place_takes_no_commands(
    store: VersionStore,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_client.set(TRAINER, b'{"holder":"another:1"}', px=60_000)
    wait_until(
        lambda: "store-clerk failed; retrying: TrainerReplacedError" in caplog.text
    )  # its wait for a command has ended
    with pytest.raises(Exception, match="did not take"):
        StoreCommands(redis_client).ask("activate", {"version": "v000002", "together": True}, 1.0)
    assert store.current() == "v000001"


@pytest.mark.usefixtures("clerk")
def test_an_unexpected_error_does_not_end_the_clerk(
    writes: Administration, store: VersionStore, served: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    served.errors = [ZeroDivisionError("in one turn")]
    wait_until(lambda: "store-clerk failed; retrying: ZeroDivisionError: in one turn" in caplog.text)
    assert writes.activate("v000002", together=True) == []
    assert store.current() == "v000002"
