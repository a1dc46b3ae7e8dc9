"""A trainer keeps its place despite errors, and stops when another trainer has taken it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import redis

from metarm.runtime.loops import FAILING_TURNS, Loops
from metarm.shared.presence import TrainerPresence
from tests.processes import wait_until
from trainer.heartbeat import Heartbeat, TrainerReplacedError

ANOTHER, LIFETIME_MS = "another:1", 60_000


class Faulty(TrainerPresence):
    """Raises each of `errors` once instead of a renewal."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.errors: list[Exception] = []

    def hold(self, holder: str, status: Mapping[str, Any], lifetime_ms: int) -> bool:
        if self.errors:
            raise self.errors.pop()
        return super().hold(holder, status, lifetime_ms)


@pytest.fixture
def presence(redis_client: redis.Redis) -> Faulty:
    return Faulty(redis_client)


@pytest.fixture
def heartbeat(presence: Faulty) -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(presence, Loops(), renew_s=0.01, retry_s=0.01)
    yield heartbeat
    heartbeat.close()


def replaced(heartbeat: Heartbeat) -> bool:
    try:
        heartbeat.check()
    except TrainerReplacedError:
        return True
    return False


def test_the_heartbeat_survives_an_unexpected_error_and_then_detects_a_lost_place(
    heartbeat: Heartbeat, presence: Faulty, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    assert heartbeat.take_place({"state": "ready"}, threading.Event())
    presence.errors = [ZeroDivisionError("in one turn")]
    wait_until(lambda: "heartbeat failed; retrying: ZeroDivisionError: in one turn" in caplog.text)
    heartbeat.check()  # one failed renewal does not lose the place
    TrainerPresence(redis_client).release(heartbeat.holder)
    wait_until(lambda: TrainerPresence(redis_client).status() is not None)  # renewed again
    presence.release(heartbeat.holder)
    while not TrainerPresence(redis_client).hold(ANOTHER, {"state": "ready"}, LIFETIME_MS):
        presence.release(heartbeat.holder)
    wait_until(lambda: replaced(heartbeat))


def test_the_place_lists_the_failing_loops_of_the_trainer(presence: Faulty, redis_client: redis.Redis) -> None:
    loops = Loops()
    heartbeat = Heartbeat(presence, loops, renew_s=0.01, retry_s=0.01)
    job_loop = loops.add("job-loop")
    assert heartbeat.take_place({"state": "ready"}, threading.Event())
    try:
        for _ in range(FAILING_TURNS):
            job_loop.failed(OSError("stale file handle"))
        wait_until(lambda: "failing" in (presence.status() or {}))
        status = presence.status()
        assert status is not None
        assert status["failing"] == ["job-loop has failed 3 times in a row: OSError: stale file handle"]
        job_loop.succeeded()
        wait_until(lambda: "failing" not in (presence.status() or {"failing": []}))
    finally:
        heartbeat.close()


def test_the_place_is_taken_when_redis_answers_and_the_other_trainer_leaves(
    heartbeat: Heartbeat,
    presence: Faulty,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    presence.errors = [redis.ConnectionError("refused")]
    other = TrainerPresence(redis_client)
    assert other.hold(ANOTHER, {"state": "ready"}, LIFETIME_MS)
    taken: list[bool] = []
    waiting = threading.Thread(target=lambda: taken.append(heartbeat.take_place({}, threading.Event())))
    waiting.start()
    wait_until(lambda: "waiting: another trainer is running" in caplog.text)
    assert "heartbeat failed; retrying: ConnectionError: refused" in caplog.text
    assert not taken
    other.release(ANOTHER)
    waiting.join(30)
    assert taken == [True]
    heartbeat.check()
