"""Real processes for tests: a Redis server, the service, the whole system; on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import redis

from metarm.runtime import process_environment
from metarm.runtime.embedded_redis import EmbeddedRedis

BUSY_S = 2.5  # that a busy machine may add to a wait that a test times


def _ports() -> Iterator[int]:
    """Below those that the kernel gives to connections, and others for each process that runs tests."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = range(20_000 + worker, 32_000, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    start = random.randrange(len(mine))
    yield from itertools.cycle([*mine[start:], *mine[:start]])


PORTS = _ports()


def free_port() -> int:
    return next(port for port in PORTS if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Process:
    """A child process in a session of its own, its output in a file; ended when the block is left."""

    def __init__(
        self, command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._output = output
        self._environment = {**os.environ, **process_environment.REQUIRED, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.running:
            self.kill(signal.SIGTERM)
            self.wait()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        return self._output.read_text()

    def start(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 60.0) -> int:
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"{self._command} did not end:\n{self.output}") from None

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait for a condition that can only come true while this process runs."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.running, f"{self._command} ended:\n{self.output}"
            assert time.monotonic() < deadline, f"not within {timeout_s} s:\n{self.output}"
            time.sleep(0.05)


class RedisProcess(Process):
    """A private server, keeping its data in `folder` over restarts."""

    def __init__(self, folder: Path) -> None:
        embedded = EmbeddedRedis(folder)
        self.url = embedded.url
        super().__init__(embedded.command(), folder / "output.txt")

    def start(self) -> None:
        super().start()
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
        folder.mkdir(parents=True, exist_ok=True)
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
        self.wait_until(lambda: self.answers("/ready"), timeout_s)


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
    (data_dir / "trainer").mkdir(parents=True, exist_ok=True)
    return Process([sys.executable, "-m", "trainer"], data_dir / "trainer" / "output.txt", environment)


def system(data_dir: Path, **settings: str) -> HttpProcess:
    """`metarm up` with its embedded Redis."""
    environment = {"METARM_DATA_DIR": str(data_dir), "METARM_TRAIN_PRIORITY": "low", **settings}
    return HttpProcess([sys.executable, "-m", "metarm", "up"], data_dir / "up", environment)
