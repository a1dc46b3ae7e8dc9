"""The trainer's place, which one trainer holds at a time, on a real Redis."""

from __future__ import annotations

import signal
import time

import pytest
import redis

from metarm.errors import TrainerUnavailableError
from metarm.shared.connection import connect
from metarm.shared.keys import TRAINER
from metarm.shared.presence import TrainerPresence
from tests.processes import RedisProcess


@pytest.fixture
def presence(redis_client: redis.Redis) -> TrainerPresence:
    return TrainerPresence(redis_client)


def test_the_trainers_place_has_one_holder(presence: TrainerPresence) -> None:
    assert presence.status() is None
    assert presence.hold("a", {"preferences": 5}, 10_000)
    assert not presence.hold("b", {}, 10_000)
    assert presence.status() == {"holder": "a", "preferences": 5}
    assert presence.hold("a", {"preferences": 6}, 10_000)
    assert presence.status() == {"holder": "a", "preferences": 6}


@pytest.mark.parametrize("value", ["[1]", '"x"', "5", "{}", "{", "\xff", '{"holder": 5}', ""])
def test_a_value_that_no_trainer_wrote_is_named(
    presence: TrainerPresence, redis_client: redis.Redis, value: str
) -> None:
    redis_client.set(TRAINER, value.encode("latin-1"))
    with pytest.raises(TrainerUnavailableError, match="metarm:trainer in Redis is no trainer's"):
        presence.status()
    assert presence.last_status is None
    assert presence.readable_status() is None


def test_the_trainers_place_expires_unless_it_is_renewed(presence: TrainerPresence) -> None:
    assert presence.hold("a", {}, 30_000)
    assert presence.hold("a", {}, 50)
    time.sleep(0.1)
    assert presence.status() is None
    assert presence.hold("b", {}, 10_000)
    assert not presence.hold("a", {}, 10_000)


def test_only_its_holder_can_release_the_trainers_place(presence: TrainerPresence) -> None:
    presence.hold("a", {}, 10_000)
    presence.release("b")
    assert presence.status() == {"holder": "a"}
    presence.release("a")
    assert presence.status() is None
    presence.release("a")
    assert presence.hold("b", {}, 10_000)


def test_every_method_raises_a_redis_error_when_the_server_is_down(redis_process: RedisProcess) -> None:
    with connect(redis_process.url, timeout_s=1.0) as client:
        presence = TrainerPresence(client)
        assert presence.hold("a", {}, 10_000)
        redis_process.kill(signal.SIGKILL)
        redis_process.wait()
        with pytest.raises(redis.RedisError):
            presence.hold("a", {}, 10)
        with pytest.raises(redis.RedisError):
            presence.release("a")
        with pytest.raises(redis.RedisError):
            presence.status()
