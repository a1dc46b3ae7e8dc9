"""Loops: periodic work that survives every error, in tasks of the event loop or in threads. No torch.

A loop reports each turn to its `LoopHealth`. An error is counted, logged once while turns fail with the same
message, and reported by `Loops.failing` after FAILING_TURNS failed turns in a row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import redis

from metarm.errors import MetaRMError

log = logging.getLogger(__name__)

FAILING_TURNS = 3
PAUSE_S = 1.0
MOST_LOGGED = 10  # different messages of consecutive failed turns
EXPLAINED = (MetaRMError, redis.RedisError)  # the message says enough: no traceback


class LoopHealth:
    """The outcome of one loop's turns. Used by one thread or task; read by any."""

    def __init__(self, name: str, count_failure: Callable[[str], None], pause_s: float) -> None:
        self.name = name
        self.pause_s = pause_s  # to wait after a failed turn
        self.error: Exception | None = None  # the last turn's
        self.failed_turns = 0  # in a row
        self._count_failure = count_failure
        self._logged: set[str] = set()  # messages of these turns

    @property
    def failing(self) -> bool:
        return self.failed_turns >= FAILING_TURNS

    @property
    def fault(self) -> str:
        """Of a loop that is failing, for people."""
        return f"{self.name} has failed {self.failed_turns} times in a row: {_described(self.error)}"

    @contextmanager
    def turn(self, *fatal: type[Exception]) -> Iterator[None]:
        """One turn, in the block. Its error is reported and suppressed, unless it is of a kind in `fatal`;
        after the block `error` has it."""
        try:
            yield
        except fatal:
            raise
        except Exception as error:  # noqa: BLE001 (reported: a loop survives whatever one turn raises)
            self.failed(error)
        else:
            self.succeeded()

    def succeeded(self) -> None:
        if self.error is not None:
            log.info("%s works again", self.name)
        self.error, self.failed_turns = None, 0
        self._logged.clear()

    def failed(self, error: Exception) -> None:
        self.error, self.failed_turns = error, self.failed_turns + 1
        self._count_failure(self.name)
        message = _described(error)
        if message not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(message)
            unexplained = None if isinstance(error, EXPLAINED) else error
            log.warning("%s failed; retrying: %s", self.name, message, exc_info=unexplained)


def _described(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"


class Loops:
    """All loops of a process."""

    def __init__(
        self, count_failure: Callable[[str], None] = lambda _name: None, *, pause_s: float = PAUSE_S
    ) -> None:
        """`count_failure` receives the loop's name for every failed turn, in the loop's thread. `pause_s` is
        the pause after a failed turn, in seconds."""
        self._count_failure = count_failure
        self._pause_s = pause_s
        self._loops: list[LoopHealth] = []

    def add(self, name: str) -> LoopHealth:
        """Register a loop that reports its own turns, such as one in a thread."""
        self._loops.append(LoopHealth(name, self._count_failure, self._pause_s))
        return self._loops[-1]

    def failing(self) -> list[LoopHealth]:
        return [loop for loop in self._loops if loop.failing]

    @asynccontextmanager
    async def running(
        self, name: str, turn: Callable[[], Awaitable[None]], every_s: float, *, first_turn: bool = False
    ) -> AsyncIterator[None]:
        """Run `turn` every `every_s` seconds inside the block. With `first_turn`, one turn runs before the
        block."""
        loop = self.add(name)
        if first_turn:
            await _run_turn(loop, turn)
        task = asyncio.create_task(_run_periodically(loop, turn, every_s, first_turn), name=name)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _run_periodically(
    loop: LoopHealth, turn: Callable[[], Awaitable[None]], every_s: float, wait_first: bool
) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (a coroutine of the event loop)
    if wait_first:
        await asyncio.sleep(every_s)
    while not task.cancelling():  # a turn may turn its cancellation into another error
        await _run_turn(loop, turn)
        await asyncio.sleep(every_s + (loop.pause_s if loop.error is not None else 0.0))


async def _run_turn(loop: LoopHealth, turn: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.current_task()
    with loop.turn():
        try:
            await turn()
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            raise RuntimeError("what the turn waited for was cancelled") from error
