"""Rates and quantiles against reference computations, with a clock that the tests advance."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest

from service.telemetry import load_monitor
from service.telemetry.load_monitor import KEEP_LATENCIES, KEEP_POINTS, LoadMonitor, Quantiles


@dataclass
class Work:
    """A batcher's counts."""

    queued_tokens: int = 0
    sliced_tokens: int = 0
    slice_room: int = 0


class Clock:
    """A clock that advances only when a test increases `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_latency_quantiles_equal_numpys_inverted_cdf_quantiles() -> None:
    rng = random.Random(0)
    for size in (1, 2, 10, 99, 100, 1001):
        seconds = [rng.expovariate(10) for _ in range(size)]
        found = Quantiles.of(seconds)
        inverted = np.quantile(np.array(seconds) * 1000, [0.5, 0.95, 0.99], method="inverted_cdf")
        assert found.requests == size
        assert found[1:] == pytest.approx(tuple(inverted))
    assert Quantiles.of([]) == (0, None, None, None)


def test_rates_cover_only_the_last_minute(clock: Clock) -> None:
    seen, work = LoadMonitor(clock.monotonic, clock.time), Work()
    assert seen.now()["responses_per_s"] is None
    seen.refresh(work, "v000001")
    for second in range(200):
        clock.now += load_monitor.REFRESH_S
        if second < 100:  # a burst that ended long ago
            seen.answered("/score", 503, 9.0)
            seen.scored(50, 5000)
        else:
            seen.answered("/score", 200, 0.25)
            seen.scored(4, 100)
            work.sliced_tokens, work.slice_room = work.sliced_tokens + 300, work.slice_room + 400
        seen.refresh(work, "v000001")
    now = seen.now()
    assert now["over_s"] == pytest.approx(60)
    assert now["requests_per_s"] == pytest.approx(1 / load_monitor.REFRESH_S)
    assert now["responses_per_s"] == pytest.approx(4 / load_monitor.REFRESH_S)
    assert now["tokens_per_s"] == pytest.approx(100 / load_monitor.REFRESH_S)
    assert now["failed_per_s"] == 0
    assert now["batch_fill"] == pytest.approx(0.75)
    assert (now["latency"]["requests"], now["latency"]["p99_ms"]) == (31, 250.0)


def test_the_history_is_bounded_and_can_be_read_from_a_given_time(clock: Clock) -> None:
    seen, work = LoadMonitor(clock.monotonic, clock.time), Work(queued_tokens=7)
    for number in range(KEEP_POINTS + 50):
        clock.now += load_monitor.REFRESH_S
        seen.scored(number, 1)
        seen.refresh(work, "v000002" if number > 300 else "v000001")
    whole = seen.history(0.0)
    assert {len(column) for column in whole.values()} == {KEEP_POINTS}
    assert (whole["serving"][0], whole["serving"][-1], whole["queue_tokens"][-1]) == ("v000001", "v000002", 7)
    assert whole["responses_per_s"][-1] == pytest.approx((KEEP_POINTS + 47) / load_monitor.REFRESH_S)
    assert whole["p50_ms"] == [None] * KEEP_POINTS
    later = seen.history(whole["at"][-3])
    assert later == {name: column[-2:] for name, column in whole.items()}


def test_only_scored_requests_count_toward_latency_and_a_bounded_number_is_kept(clock: Clock) -> None:
    seen = LoadMonitor(clock.monotonic, clock.time)
    seen.answered("/versions", 200, 3.0)
    seen.answered("/score", 422, 3.0)
    for _ in range(KEEP_LATENCIES + 500):
        seen.answered("/score", 200, 0.001)
    clock.now += 1.0
    seen.refresh(Work(), None)
    assert seen.now()["latency"] == {"requests": KEEP_LATENCIES, "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0}
