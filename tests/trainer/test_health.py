from __future__ import annotations

import os
import subprocess
import sys

import redis

from metarm.shared.presence import TrainerPresence
from tests.processes import RedisProcess


def health(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.health"]
    return subprocess.run(command, env={**os.environ, "REDIS_URL": url}, capture_output=True, text=True)


def test_the_health_check_succeeds_while_a_trainer_holds_the_place(
    redis_process: RedisProcess, redis_client: redis.Redis
) -> None:
    none = health(redis_process.url)
    assert none.returncode == 1
    assert "no trainer holds the place" in none.stderr
    TrainerPresence(redis_client).hold("here:1", {"state": "ready"}, 60_000)
    assert health(redis_process.url).returncode == 0


def test_without_redis_the_health_check_fails_with_an_unknown_state() -> None:
    unreachable = health("redis://127.0.0.1:1")
    assert unreachable.returncode == 1
    assert "the trainer's state is unknown" in unreachable.stderr
