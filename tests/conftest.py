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
    os.environ.pop(variable, None)  # a developer's own settings must not decide a test

from metarm.shared.connection import connect  # noqa: E402 (after the environment)
from metarm.shared.coordinator import COMMAND_TIMEOUT_S  # noqa: E402
from tests.processes import RedisProcess  # noqa: E402
from tests.tiny import Kind, make_checkpoint  # noqa: E402

# no deadline: a machine that stalls is no bug
hypothesis.settings.register_profile("busy", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("busy")

SHARED = ("tests/compose/", "tests/page/")  # folders with one engine, one browser
SLOW = (*SHARED, "tests/e2e/")


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Where tests run in several processes, those of one file run in one, as their servers are the file's."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in SHARED if nodeid.startswith(folder)), nodeid.split("::")[0])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow folders. Files with slow tests come first, so that several processes end at one time."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads a developer's .env, or writes into the checkout."""
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
    """A client as those have who cut over: it does not wait long for an answer."""
    with contextlib.closing(connect(redis_process.url, COMMAND_TIMEOUT_S)) as client:
        yield client


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """A tiny checkpoint of a kind, made once a session: not to be changed."""
    made: dict[Kind, Path] = {}

    def get(kind: Kind) -> Path:
        if kind not in made:
            made[kind] = make_checkpoint(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return get
