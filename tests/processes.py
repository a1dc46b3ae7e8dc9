"""Real processes for tests: a Redis server, the service, the whole system; on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import redis

from metarm.runtime import process_environment, processes
from metarm.runtime.embedded_redis import EmbeddedRedis
from metarm.runtime.processes import free_port

BUSY_S = 2.5  # that a busy machine may add to a wait that a test times


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Process(processes.Process):
    """One that must end when the block is left, and with the environment that ours need."""

    def __init__(
        self, command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        given = environment or {}
        super().__init__(command, output, {**os.environ, **process_environment.REQUIRED, **given})

    def __exit__(self, *exc_info: object) -> None:
        if not self.stop():
            raise self.error("did not end")


class RedisProcess(Process):
    """A private server, keeping its data in `folder` over restarts."""

    def __init__(self, folder: Path) -> None:
        embedded = EmbeddedRedis(folder)
        self.url = embedded.url
        super().__init__(embedded.command(), folder / "output.txt")

    def wait_started(self) -> None:
        self.wait_until(self._answers)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class HttpProcess(Process):
    """A process that serves HTTP once it is ready."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.port = int(environment.get("METARM_PORT") or free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        fresh = httpx.Limits(keepalive_expiry=2.0)  # a server closes what is idle for 5 s
        self.http = httpx.Client(base_url=self.url, timeout=60.0, limits=fresh)
        super().__init__(command, folder / "output.txt", {**environment, "METARM_PORT": str(self.port)})

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self.http.close()

    def answers(self, path: str, status: int = 200) -> bool:
        try:
            return self.http.get(path).status_code == status
        except httpx.TransportError:
            return False

    def wait_ready(self, timeout_s: float = 180.0) -> None:
        self.wait_until_answers(f"{self.url}/ready", timeout_s)


Pair = tuple[HttpProcess, HttpProcess]


def service(
    data_dir: Path, redis_url: str, *, name: str = "service", prefix: Sequence[str] = (), **settings: str
) -> HttpProcess:
    """`python -m service` on a data directory; settings by their environment names, e.g. METARM_POLL_MS.
    The machine is not measured at its start, which takes seconds, unless METARM_TUNE says so; promoted
    versions, often random ones, are not watched unless METARM_WATCH_GROUPS says so. `name` tells several
    on one directory apart; `prefix` is a command that runs it."""
    environment = {
        "METARM_DATA_DIR": str(data_dir),
        "REDIS_URL": redis_url,
        "METARM_TUNE": "false",
        "METARM_WATCH_GROUPS": "0",
        **settings,
    }
    command = [*prefix, sys.executable, "-m", "service"]
    return HttpProcess(command, data_dir / name, environment)


@contextlib.contextmanager
def two_services(data_dir: Path, redis_url: str, **settings: Any) -> Iterator[Pair]:
    """Two of them on one store and one Redis, ready; `prefix` as in `service`."""
    one, other = (service(data_dir, redis_url, name=name, **settings) for name in ("a", "b"))
    with one, other:
        one.wait_ready()
        other.wait_ready()
        yield one, other


def trainer(data_dir: Path, redis_url: str, **settings: str) -> Process:
    """`python -m trainer` on a data directory; other work on this machine does not keep its runs waiting."""
    low = {"METARM_TRAIN_PRIORITY": "low"}
    environment = {"METARM_DATA_DIR": str(data_dir), "REDIS_URL": redis_url, **low, **settings}
    return Process([sys.executable, "-m", "trainer"], data_dir / "trainer" / "output.txt", environment)


def system(data_dir: Path, **settings: str) -> HttpProcess:
    """`metarm up` with its embedded Redis."""
    environment = {"METARM_DATA_DIR": str(data_dir), "METARM_TRAIN_PRIORITY": "low", **settings}
    return HttpProcess([sys.executable, "-m", "metarm", "up"], data_dir / "up", environment)
