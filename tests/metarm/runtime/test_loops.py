"""Periodic work continues after an error, and its errors are counted, logged and reported."""

from __future__ import annotations

import asyncio
import logging

import pytest
import redis

from metarm.errors import NotReadyError
from metarm.runtime.loops import FAILING_TURNS, MOST_LOGGED, LoopHealth, Loops


class Turns:
    """Raises the given errors, one per turn, and then succeeds."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors = list(errors)
        self.count = 0
        self.done = asyncio.Event()

    async def turn(self) -> None:
        self.count += 1
        if self._errors:
            error = self._errors.pop(0)
            if error is not None:
                raise error
        elif self.count > 1:
            self.done.set()


@pytest.fixture
def health() -> LoopHealth:
    return Loops().add("swapper")


def test_a_loop_continues_after_any_error_and_counts_each_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted: list[str] = []

    async def main() -> None:
        turns = Turns(OSError(116, "Stale file handle"), ZeroDivisionError(), NotReadyError("not yet"))
        async with Loops(counted.append, pause_s=0.0).running("swapper", turns.turn, 0.0):
            await asyncio.wait_for(turns.done.wait(), 30)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert counted == ["swapper"] * 3
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "swapper failed; retrying: OSError: [Errno 116] Stale file handle"
    assert messages[3] == "swapper works again"
    assert [bool(record.exc_info) for record in caplog.records] == [True, True, False, False]


def test_a_repeated_error_is_logged_once_and_again_after_a_success(
    health: LoopHealth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(5):
        health.failed(redis.ConnectionError("refused"))
        health.failed(redis.TimeoutError("too late"))
    health.succeeded()
    health.failed(redis.ConnectionError("refused"))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning.rpartition(": ")[2] for warning in warnings] == ["refused", "too late", "refused"]


def test_a_loop_counts_as_failing_after_several_consecutive_failures() -> None:
    loops = Loops()
    one, other = loops.add("labels"), loops.add("leases")
    for turn in range(1, FAILING_TURNS + 1):
        assert loops.failing() == []
        one.failed(OSError("gone"))
        other.failed(OSError("gone"))
        if turn == 1:
            other.succeeded()
    assert loops.failing() == [one]
    one.succeeded()
    assert loops.failing() == []


def test_a_block_with_first_turn_begins_after_that_turn_and_ends_the_loop() -> None:
    async def main() -> None:
        turns = Turns()
        async with Loops().running("labels", turns.turn, 3600.0, first_turn=True):
            assert turns.count == 1
            await asyncio.sleep(0.01)
            assert turns.count == 1
        assert "labels" not in {task.get_name() for task in asyncio.all_tasks()}

    asyncio.run(main())


def test_a_block_begins_even_if_the_first_turn_fails() -> None:
    async def main() -> None:
        turns, loops = Turns(OSError("gone")), Loops()
        async with loops.running("labels", turns.turn, 3600.0, first_turn=True):
            assert turns.count == 1

    asyncio.run(main())


def test_a_turn_whose_own_wait_is_cancelled_is_a_failed_turn_and_not_the_end() -> None:
    counted: list[str] = []

    async def main() -> None:
        done, turns = asyncio.Event(), 0

        async def turn() -> None:
            nonlocal turns
            turns += 1
            if turns == 1:
                cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                cancelled.cancel()
                await cancelled
            done.set()

        async with Loops(counted.append, pause_s=0.0).running("leases", turn, 0.0):
            await asyncio.wait_for(done.wait(), 30)

    asyncio.run(main())
    assert counted == ["leases"]


def test_messages_that_differ_each_time_are_counted_but_not_logged_without_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted: list[str] = []
    health = Loops(counted.append).add("swapper")
    for attempt in range(100):
        health.failed(OSError(f"attempt {attempt}"))
    assert len(counted) == 100
    assert len(caplog.records) == MOST_LOGGED
    assert health.fault.endswith("attempt 99")


def test_a_turn_that_answers_its_cancellation_with_another_error_still_ends() -> None:
    async def main() -> None:
        waiting = asyncio.Event()

        async def turn() -> None:
            waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                raise OSError("interrupted") from error

        async with asyncio.timeout(30), Loops(pause_s=0.0).running("labels", turn, 0.0):
            await waiting.wait()

    asyncio.run(main())


def test_the_fault_of_a_loop_names_the_kind_of_error(health: LoopHealth) -> None:
    health.failed(AssertionError())
    assert "AssertionError" in health.fault
