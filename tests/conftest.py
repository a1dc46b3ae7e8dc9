"""Fixtures: real servers and tiny real models. Nothing is loaded from a hub."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis
from xdist.scheduler import LoadScopeScheduling

from metarm.runtime import process_environment

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.update(process_environment.REQUIRED)
for variable in [name for name in os.environ if name.startswith("METARM_")] + ["REDIS_URL", "PREFERENCES"]:
    os.environ.pop(variable, None)  # a developer's own settings must not affect a test

from metarm.shared.connection import connect  # noqa: E402 (after the environment)
from metarm.shared.coordinator import COMMAND_TIMEOUT_S  # noqa: E402
from tests.processes import RedisProcess  # noqa: E402
from tests.tiny import Kind, make_checkpoint  # noqa: E402

# no deadline: a stalled machine is not a bug
hypothesis.settings.register_profile("busy", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("busy")

SHARED = ("tests/compose/", "tests/page/")  # folders whose tests share one engine or one browser
SLOW = (*SHARED, "tests/e2e/")


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Distributes tests by file, or by folder for SHARED, because the tests of one share servers."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in SHARED if nodeid.startswith(folder)), nodeid.split("::")[0])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow folders and run files with slow tests first, so that all processes end at about the same
    time."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty directory, so that it reads no .env and writes nothing into the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def redis_client(redis_process: RedisProcess) -> Iterator[redis.Redis]:
    with redis_process.client() as client:
        yield client


@pytest.fixture
def quick(redis_process: RedisProcess) -> Iterator[redis.Redis]:
    """A client with the short command timeout that cut-overs use."""
    with contextlib.closing(connect(redis_process.url, COMMAND_TIMEOUT_S)) as client:
        yield client


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Return a tiny checkpoint of the given kind, made once per session. Tests must not change it."""
    made: dict[Kind, Path] = {}

    def get(kind: Kind) -> Path:
        if kind not in made:
            made[kind] = make_checkpoint(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return get
