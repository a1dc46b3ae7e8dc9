"""Our own arms: the real service on its own store and its own Redis, and the offline forward behind it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from bench.arms import ServerPlan, Setting, WorkerPlan
from bench.models import publish
from bench.places import THREADS
from bench.processes import Child
from bench.workload import Request
from metarm.runtime import process_environment
from metarm.runtime.embedded_redis import EmbeddedRedis


def service(name: str, setting: Setting, settings: Mapping[str, str]) -> ServerPlan:
    """`python -m service`, samples logged as they are by default, scores not cached. `settings` are more
    of its environment."""
    folder = setting.folder / name
    checkpoint = setting.checkpoint
    publish(checkpoint, folder)
    redis = EmbeddedRedis(folder / "redis")
    environment = {
        **process_environment.REQUIRED,
        "METARM_DATA_DIR": str(folder),
        "METARM_SCORE_CACHE_ENTRIES": "0",
        "METARM_MAX_TOKENS": str(checkpoint.max_tokens),
        "METARM_LOG_LEVEL": "WARNING",
        "REDIS_URL": redis.url,
        **settings,
    }
    return ServerPlan(
        command=lambda _: [sys.executable, "-m", "service"],
        folder=folder / "service",
        settings=lambda port: {**environment, "METARM_PORT": str(port)},
        ready_path="/ready",
        score_path="/score",
        speak=_speak,
        understand=_understand,
        probe_path="/health",
        helpers=(Child(redis.command(), folder / "redis", {}),),
    )


def offline(setting: Setting) -> WorkerPlan:
    """`RewardModel.scores` of already encoded samples: bench/offline.py."""
    checkpoint = setting.checkpoint
    options = [str(checkpoint.path), str(checkpoint.max_tokens), str(THREADS)]
    command = [sys.executable, "-m", "bench.offline", *options]
    return WorkerPlan(command, setting.folder / "offline", dict(process_environment.REQUIRED))


def _speak(request: Request) -> dict[str, Any]:
    return {"groups": [{"prompt": request.prompt, "responses": list(request.responses)}]}


def _understand(answer: dict[str, Any]) -> list[float]:
    return [float(score) for score in answer["groups"][0]["scores"]]
