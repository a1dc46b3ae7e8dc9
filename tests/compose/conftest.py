"""One engine and one set of images for all tests. Without an engine they are skipped, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.compose.engine import Engine, NoEngineError, find_engine
from tests.compose.stack import Stack, stack


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    try:
        found = find_engine()
    except NoEngineError as error:
        pytest.skip(f"no containers: {error}")
    yield found
    found.close()


@pytest.fixture(scope="package")
def thorough() -> None:
    """For tests that take too many minutes for CI. (The variable is not a METARM_ one: tests remove those.)"""
    if os.environ.get("CONTAINER_TESTS") != "all":
        pytest.skip("it takes minutes: `make containers` runs it (CONTAINER_TESTS=all)")


@pytest.fixture(scope="package")
def running(engine: Engine) -> Iterator[Stack]:
    """A stack that is built, started and ready. All tests share it, and leave it ready."""
    with stack(engine) as made:
        made.build()
        made.compose("up", "--detach")
        made.wait_ready()
        made.first_logs = {name: made.logs(name) for name in ("service", "trainer")}
        yield made
