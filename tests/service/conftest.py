"""Fixtures for tests over HTTP, shared by all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import PairHere, RedisProcess, two_services_here


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest, data_dir: Path, shared_redis: RedisProcess) -> Iterator[PairHere]:
    """Two services on the `data_dir` and with the SETTINGS of the test file."""
    with two_services_here(data_dir, shared_redis.url, **request.module.SETTINGS) as pair:
        yield pair
