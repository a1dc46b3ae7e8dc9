"""docker-compose.yml as a project with its own name, free ports, and settings that keep training short."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from metarm.runtime.processes import free_port
from tests.compose.engine import PYTHON_IMAGE, ROOT, Engine, run

BUILD_S = 1500.0
START_S = 300.0
# the tests of another checkout may run at the same time
TAG = f"test-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
FILES = ("--file", "docker-compose.yml", "--file", "tests/compose/beside-others.yml")
# few and small updates on few and short pairs, through the whole path
QUICK = {
    "METARM_BOOTSTRAP_PAIRS": "64",
    "METARM_MAX_HELD_OUT": "32",
    "METARM_MAX_TOKENS": "64",
    "METARM_MIN_GROUPS": "16",
    "METARM_MAX_GROUPS": "32",
    "METARM_STEPS": "2",
    "METARM_BATCH_SIZE": "8",
    "METARM_META_BATCH_SIZE": "2",
    "METARM_GATE_TOLERANCE": "1",
    "METARM_GATE_SIGNIFICANCE": "0",
    "METARM_TRAIN_PRIORITY": "low",
    "METARM_WATCH_GROUPS": "0",
}


class Stack:
    """One project of Docker Compose; `settings` by their environment names."""

    def __init__(self, engine: Engine, **settings: str) -> None:
        self.engine = engine
        self.project = f"metarm-test-{os.getpid()}"
        self.port, self.proxy_port, self.prometheus_port = free_port(), free_port(), free_port()
        self.environment = {
            **engine.environment,
            **QUICK,
            "METARM_PORT": str(self.port),
            "PROXY_PORT": str(self.proxy_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "GRAFANA_PORT": str(free_port()),
            "IMAGE_TAG": TAG,
            **(LOCAL_IMAGES if engine.alone else {}),
            **settings,
        }
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60.0)
        self.first_logs: Mapping[str, str] = {}  # of the first start, by service

    def compose(self, *arguments: str, timeout_s: float = START_S, **settings: str) -> str:
        command = [*self.engine.compose, *FILES, "--project-name", self.project, *arguments]
        return run(command, {**self.environment, **settings}, timeout_s)

    def build(self) -> None:
        self.compose("build", timeout_s=BUILD_S)
        if self.engine.alone:
            folder = Path(__file__).parent
            self.engine.docker("build", "--tag", LOCAL_IMAGES["PROXY_IMAGE"], str(folder), timeout_s=BUILD_S)

    def remove(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("--profile", "monitoring", "--profile", "scale", "down", "--volumes", "--remove-orphans")
        self.http.close()

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, stopped ones included."""
        names = (f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}")
        filters = [part for name in names for part in ("--filter", f"label={name}")]
        return self.engine.docker("ps", "--all", "--quiet", *filters).split()

    def container(self, service: str) -> dict[str, Any]:
        """`docker inspect` of a service's only container."""
        (found,) = self.containers(service)
        inspected: dict[str, Any] = json.loads(self.engine.docker("inspect", found))[0]
        return inspected

    def execute(self, service: str, *command: str) -> str:
        return self.engine.docker("exec", self.containers(service)[0], *command)

    def logs(self, service: str) -> str:
        return self.compose("logs", "--no-color", service)

    def kill(self, service: str) -> None:
        """`docker kill`: to Docker the operator ended it, and the restart policy does not apply."""
        self.engine.docker("kill", self.container(service)["Id"])

    def crash(self, service: str) -> None:
        """SIGKILL from outside the container: to Docker it crashed, and the restart policy applies."""
        pid = str(self.container(service)["State"]["Pid"])
        host = ("run", "--rm", "--pid", "host", "--user", "root", "--entrypoint", "sh", PYTHON_IMAGE)
        self.engine.docker(*host, "-c", f"kill -9 {pid}")

    def healthy(self, service: str) -> bool:
        state = self.container(service)["State"]
        return bool(state["Running"] and state.get("Health", {}).get("Status") == "healthy")

    def started_since(self, service: str, before: str) -> bool:
        """Whether it runs, and has started again since `before`, the StartedAt of an earlier inspection."""
        state = self.container(service)["State"]
        return bool(state["Running"]) and state["StartedAt"] != before

    def logged(self) -> int:
        """The number of groups in the sample log; -1 while Redis does not answer."""
        try:
            return int(self.execute("redis", "redis-cli", "--raw", "xlen", "metarm:samples"))
        except (AssertionError, ValueError, IndexError):
            return -1

    def ready(self) -> dict[str, Any] | None:
        """The answer of /ready; None while the service is not ready."""
        try:
            answer = self.http.get("/ready")
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def wait_ready(self) -> None:
        """Wait until the service scores and nothing is degraded."""
        self.wait_until(lambda: (self.ready() or {}).get("status") == "ready", "the service is not ready")

    def wait_until(self, condition: Callable[[], bool], complaint: str, timeout_s: float = START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{complaint} after {timeout_s:g} s:\n{self.compose('logs', '--no-color')}"
                )
            time.sleep(0.2)


# for an engine without a registry: its own Prometheus, and a proxy built from Debian's package
LOCAL_IMAGES: Mapping[str, str] = {
    "PROMETHEUS_IMAGE": "prom/prometheus",
    "PROXY_IMAGE": "metarm-test-haproxy",
}


@contextmanager
def stack(engine: Engine, **settings: str) -> Iterator[Stack]:
    """A project that is removed at the end, volumes included."""
    made = Stack(engine, **settings)
    try:
        yield made
    finally:
        made.remove()
