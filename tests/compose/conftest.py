"""One engine and one set of images a session; where there is no engine the tests say why and are left out."""

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
    """Asked for by what takes minutes more than CI has. (No METARM_ name: tests drop those.)"""
    if os.environ.get("CONTAINER_TESTS") != "all":
        pytest.skip("it takes minutes more: `make containers` runs it (CONTAINER_TESTS=all)")


@pytest.fixture(scope="package")
def running(engine: Engine) -> Iterator[Stack]:
    """Built, up, and ready: one for all tests, which leave it so."""
    with stack(engine) as made:
        made.build()
        made.compose("up", "--detach")
        made.wait_ready()
        made.first_words = {name: made.logs(name) for name in ("service", "trainer")}
        yield made
