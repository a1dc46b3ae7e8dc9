"""Store commands, sent by one process and executed by another, through a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis

from metarm.errors import CutOverAbortedError, MetaRMError, TrainerUnavailableError, UnknownVersionError
from metarm.shared.presence import TrainerPresence
from metarm.shared.store_commands import Kind, StoreCommands
from tests.processes import BUSY_S

Do = Callable[[Kind, Mapping[str, Any]], Any]


@pytest.fixture
def commands(redis_client: redis.Redis) -> StoreCommands:
    TrainerPresence(redis_client).hold("test:1", {"state": "ready"}, 60_000)
    return StoreCommands(redis_client)


@pytest.fixture
def serve(commands: StoreCommands) -> Iterator[Callable[[Do], None]]:
    """Starts a thread that executes commands."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(do: Do) -> None:
        def run() -> None:
            while not stop.is_set():
                commands.serve_one(do)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_a_command_is_executed_by_another_process_and_its_result_is_returned(
    commands: StoreCommands, serve: Callable[[Do], None]
) -> None:
    serve(lambda kind, arguments: [kind, arguments])
    assert commands.ask("activate", {"version": "v000002"}, 10) == ["activate", {"version": "v000002"}]


@pytest.mark.parametrize(
    "error",
    [
        UnknownVersionError("there is no version 'v000009'", known=["v000001"]),
        CutOverAbortedError("b was too slow", retry_after_s=5, servers={"b": "slow"}),
        CutOverAbortedError("b refused it", servers={"b": "NaN"}),
    ],
)
def test_an_error_in_the_trainer_is_raised_in_the_service(
    commands: StoreCommands, serve: Callable[[Do], None], error: MetaRMError
) -> None:
    def fail(_kind: Kind, _arguments: Mapping[str, Any]) -> None:
        raise error

    serve(fail)
    with pytest.raises(type(error)) as raised:
        commands.ask("activate", {}, 10)
    assert (raised.value.message, raised.value.details) == (error.message, error.details)
    assert raised.value.retry_after_s == error.retry_after_s


def test_a_bug_in_the_trainer_does_not_leave_the_service_waiting(
    commands: StoreCommands, serve: Callable[[Do], None]
) -> None:
    def fail(_kind: Kind, _arguments: Mapping[str, Any]) -> None:
        raise ZeroDivisionError("oh")

    serve(fail)
    with pytest.raises(MetaRMError, match="ZeroDivisionError: oh"):
        commands.ask("activate", {}, 10)


def test_without_a_trainer_nothing_is_sent(redis_client: redis.Redis) -> None:
    with pytest.raises(TrainerUnavailableError, match="no trainer is running"):
        StoreCommands(redis_client).ask("activate", {}, 10)
    assert redis_client.llen("metarm:commands") == 0


def test_a_command_that_is_not_taken_in_time_is_never_executed(
    commands: StoreCommands, serve: Callable[[Do], None], redis_client: redis.Redis
) -> None:
    done: list[str] = []
    patient = StoreCommands(redis_client, wait_s=10.0)  # the command outlives the requested wait by this time
    began = time.monotonic()
    with pytest.raises(TrainerUnavailableError, match="did not take"):
        patient.ask("activate", {}, 0.1)
    assert (
        time.monotonic() - began < 0.1 + BUSY_S
    )  # the requested wait, not the time limit of one blocking command
    serve(lambda kind, _arguments: done.append(kind))
    time.sleep(0.2)
    assert done == []


def test_a_command_that_was_withdrawn_leaves_nothing_behind(
    commands: StoreCommands, redis_client: redis.Redis
) -> None:
    for _ in range(3):
        with pytest.raises(TrainerUnavailableError, match="did not take"):
            commands.ask("remove_label", {"label": "stable"}, 0.05)
    assert redis_client.keys("metarm:command*") == []
