"""This project's own arms: the real service on its own version store and Redis, and the offline forward."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.arms import ServerPlan, Setting, WorkerPlan
from bench.models import publish
from bench.places import THREADS
from bench.processes import Child, Server
from bench.workload import Request
from metarm.runtime import process_environment
from metarm.runtime.embedded_redis import EmbeddedRedis
from metarm.runtime.processes import free_port

COMMAND = (sys.executable, "-m", "service")
READY_PATH = "/ready"


def service(
    name: str, setting: Setting, settings: Mapping[str, str], checkout: Path | None = None
) -> ServerPlan:
    """The arm of a service with further `settings`: it logs samples, as it does by default, and has no score
    cache. `checkout` is the folder whose code it runs (default: this one)."""
    folder = setting.folder / name
    checkpoint = setting.checkpoint
    publish(checkpoint, folder)
    redis = EmbeddedRedis(folder / "redis")
    own = {"METARM_MAX_TOKENS": str(checkpoint.max_tokens), **settings}
    if checkout:
        own["PYTHONPATH"] = str(checkout)
    return ServerPlan(
        command=lambda _: list(COMMAND),
        folder=folder / "service",
        settings=lambda port: _environment(folder, redis, port, own),
        ready_path=READY_PATH,
        score_path="/score",
        speak=body,
        understand=_understand,
        probe_path="/health",
        helpers=(redis_process(redis, folder),),
    )


def server(data_dir: Path, redis: EmbeddedRedis, name: str = "service", **settings: str) -> Server:
    """A service on `data_dir` and a free port, not yet started; its output is in the subfolder `name`."""
    port = free_port()
    return Server(COMMAND, data_dir / name, _environment(data_dir, redis, port, settings), port, READY_PATH)


def redis_process(redis: EmbeddedRedis, folder: Path) -> Child:
    """The process of `redis`, not yet started."""
    return Child(redis.command(), folder / "redis", {})


def offline(setting: Setting) -> WorkerPlan:
    """`RewardModel.scores` of already encoded samples: bench/offline.py."""
    checkpoint = setting.checkpoint
    options = [str(checkpoint.path), str(checkpoint.max_tokens), str(THREADS)]
    command = [sys.executable, "-m", "bench.offline", *options]
    return WorkerPlan(command, setting.folder / "offline", dict(process_environment.REQUIRED))


def body(request: Request, **options: Any) -> dict[str, Any]:
    """The JSON body of POST /score."""
    return {"groups": [{"prompt": request.prompt, "responses": list(request.responses)}], **options}


def _environment(
    data_dir: Path, redis: EmbeddedRedis, port: int, settings: Mapping[str, str]
) -> dict[str, str]:
    return {
        **process_environment.REQUIRED,
        "METARM_DATA_DIR": str(data_dir),
        "METARM_PORT": str(port),
        "METARM_SCORE_CACHE_ENTRIES": "0",
        "METARM_LOG_LEVEL": "WARNING",
        "REDIS_URL": redis.url,
        **settings,
    }


def _understand(answer: dict[str, Any]) -> list[float]:
    return [float(score) for score in answer["groups"][0]["scores"]]
