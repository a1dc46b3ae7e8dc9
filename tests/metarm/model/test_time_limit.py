"""A block of Python that runs too long is ended; nothing is raised after a block."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from metarm.model.time_limit import TimeLimitExceededError, time_limit


def test_a_loop_that_handles_every_exception_is_ended() -> None:
    def endless() -> None:
        with time_limit(0.1):
            while True:
                with suppress(Exception):
                    time.sleep(0.001)

    with pytest.raises(TimeLimitExceededError):
        endless()


def test_nothing_is_raised_after_blocks_that_end_at_their_limit() -> None:
    for _ in range(200):
        with suppress(TimeLimitExceededError), time_limit(0.001):
            until = time.monotonic() + 0.001
            while time.monotonic() < until:
                pass
        for _ in range(1000):  # in which a late one would be raised
            time.monotonic()
