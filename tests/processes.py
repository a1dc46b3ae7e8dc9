"""Real processes for tests: a Redis server, the service and the whole system, on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import redis

from metarm.runtime import process_environment, processes
from metarm.runtime.addresses import bind, url_of
from metarm.runtime.embedded_redis import EmbeddedRedis
from metarm.runtime.processes import free_port
from service.http.app import create_app
from service.http.web_server import web_server
from service.settings import ServiceSettings

BUSY_S = 2.5  # tolerance for a busy machine in waits that a test measures


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Process(processes.Process):
    """A process with the environment that this project's processes require. It must end when the block ends."""

    def __init__(
        self, command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        given = environment or {}
        super().__init__(command, output, {**os.environ, **process_environment.REQUIRED, **given})

    def __exit__(self, *exc_info: object) -> None:
        if not self.stop():
            raise self.error("did not end")


class RedisProcess(Process):
    """A private Redis server that keeps its data in `folder` across restarts."""

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


class Served:
    """A server that tests access over HTTP, in another process or in this one."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        self.url = url_of(host, port)
        self.http = httpx.Client(base_url=self.url, timeout=60.0)

    def answers(self, path: str, status: int = 200) -> bool:
        try:
            return self.http.get(path).status_code == status
        except httpx.TransportError:
            return False

    @property
    def output(self) -> str:
        """The log of the server."""
        raise NotImplementedError

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait for a condition. Fail if the server ends before it becomes true."""
        raise NotImplementedError

    def wait_ready(self, timeout_s: float = 180.0) -> None:
        self.wait_until(lambda: self.answers("/ready"), timeout_s)


class HttpProcess(Process, Served):
    """A process that serves HTTP once it is ready."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        host = environment.get("METARM_HOST") or "127.0.0.1"
        Served.__init__(self, int(environment.get("METARM_PORT") or free_port()), host)
        given = {**environment, "METARM_PORT": str(self.port)}
        Process.__init__(self, command, folder / "output.txt", given)

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self.http.close()


class HttpThread(Served):
    """The service's application in a thread of this process, run by the same web server."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """`settings` are named by their environment variables."""
        with pytest.MonkeyPatch.context() as patched:
            for name, value in settings.items():
                patched.setenv(name, value)
            given = ServiceSettings(port=free_port())
            self._server = web_server(create_app(given), given)
        super().__init__(given.port, given.host)
        sockets = bind(given.host, given.port)
        self._thread = threading.Thread(target=self._server.run, args=[sockets], daemon=True)
        self._log = io.StringIO()
        self._handler = logging.StreamHandler(self._log)

    def __enter__(self) -> Self:
        root = logging.getLogger()
        root.addHandler(self._handler)
        self._level = root.level
        root.setLevel(logging.INFO)
        self._thread.start()
        try:
            self.wait_until(lambda: self._server.started)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        self.http.close()
        root = logging.getLogger()
        root.setLevel(self._level)
        root.removeHandler(self._handler)
        assert not self._thread.is_alive()

    @property
    def output(self) -> str:
        return self._log.getvalue()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self._thread.is_alive(), f"the server ended:\n{self.output}"
            assert time.monotonic() < deadline, (
                f"the condition is not met within {timeout_s:g} s:\n{self.output}"
            )
            time.sleep(0.01)


Pair = tuple[HttpProcess, HttpProcess]
PairHere = tuple[HttpThread, HttpThread]


def service(
    data_dir: Path, redis_url: str, *, name: str = "service", prefix: Sequence[str] = (), **settings: str
) -> HttpProcess:
    """`python -m service` on a data directory. Settings are named by their environment variables, for example
    METARM_POLL_MS. `name` distinguishes several services on one directory. `prefix` is a command to run it."""
    command = [*prefix, sys.executable, "-m", "service"]
    return HttpProcess(command, data_dir / name, _settings(data_dir, redis_url, settings))


def service_here(data_dir: Path, redis_url: str, **settings: str) -> HttpThread:
    """Like `service`, but in a thread of this process, which starts in a tenth of the time."""
    return HttpThread(_settings(data_dir, redis_url, settings))


def _settings(data_dir: Path, redis_url: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Settings for tests: METARM_TUNE off, because measuring the machine takes seconds, and METARM_WATCH_GROUPS
    0, because promoted versions are often random. `settings` override both."""
    return {
        "METARM_DATA_DIR": str(data_dir),
        "REDIS_URL": redis_url,
        "METARM_TUNE": "false",
        "METARM_WATCH_GROUPS": "0",
        **settings,
    }


@contextlib.contextmanager
def two_services(data_dir: Path, redis_url: str, **settings: Any) -> Iterator[Pair]:
    """Two ready services on one store and one Redis. `prefix` is passed to `service`."""
    one, other = (service(data_dir, redis_url, name=name, **settings) for name in ("a", "b"))
    with one, other:
        one.wait_ready()
        other.wait_ready()
        yield one, other


@contextlib.contextmanager
def two_services_here(data_dir: Path, redis_url: str, **settings: str) -> Iterator[PairHere]:
    """Like `two_services`, but in threads of this process."""
    one, other = (service_here(data_dir, redis_url, **settings) for _ in range(2))
    with one, other:
        one.wait_ready()
        other.wait_ready()
        yield one, other


def trainer(data_dir: Path, redis_url: str, **settings: str) -> Process:
    """`python -m trainer` on a data directory. Its runs do not wait for other work on this machine."""
    low = {"METARM_TRAIN_PRIORITY": "low"}
    environment = {"METARM_DATA_DIR": str(data_dir), "REDIS_URL": redis_url, **low, **settings}
    return Process([sys.executable, "-m", "trainer"], data_dir / "trainer" / "output.txt", environment)


def system(data_dir: Path, **settings: str) -> HttpProcess:
    """`metarm up` with its embedded Redis."""
    environment = {"METARM_DATA_DIR": str(data_dir), "METARM_TRAIN_PRIORITY": "low", **settings}
    return HttpProcess([sys.executable, "-m", "metarm", "up"], data_dir / "up", environment)
