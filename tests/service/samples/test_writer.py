"""The sample writer alone, with a real Redis."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import redis

from metarm.records import PolicyStamp, SampleGroup
from metarm.runtime.loops import Loops
from metarm.shared.keys import SAMPLES, SAMPLES_TRIMMED
from metarm.shared.sample_log import LoggedRequest, SampleLog
from service.samples.writer import SampleWriter
from service.telemetry.metrics import Metrics
from tests.series import value_of


def request(name: str, step: int = 0) -> LoggedRequest:
    group = SampleGroup(
        name, name, "prompt", ("a", "b"), (0.0, 1.0), "v000001", time.time(), PolicyStamp("p", step)
    )
    return LoggedRequest(name, (group, replace(group, id=f"{name}-2")), 60)


def dropped(metrics: Metrics, reason: str) -> float:
    return value_of(metrics.samples_dropped.labels(reason))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def writer(redis_client: redis.Redis, metrics: Metrics) -> SampleWriter:
    log, loop = SampleLog(redis_client), Loops().add("sample-writer")
    return SampleWriter(log, metrics, loop, buffer_groups=1000, max_groups=50, max_age_s=1e6)


def test_only_the_request_that_cannot_be_encoded_is_dropped_and_counted(
    writer: SampleWriter, metrics: Metrics, redis_client: redis.Redis
) -> None:
    for place in range(10):
        writer.offer(request(str(place), step=2**70 if place == 4 else place))
    writer.start()
    assert writer.flush(10)
    writer.close()
    assert dropped(metrics, "unencodable") == 2
    assert redis_client.xlen(SAMPLES) == 18


def test_closing_writes_every_offered_request(writer: SampleWriter, redis_client: redis.Redis) -> None:
    writer.start()
    for place in range(20):
        writer.offer(request(str(place)))
    writer.close()
    assert redis_client.xlen(SAMPLES) == 40


def test_the_log_is_trimmed_to_its_limit_and_trimmed_samples_are_counted(
    writer: SampleWriter, metrics: Metrics, redis_client: redis.Redis
) -> None:
    for place in range(60):
        writer.offer(request(str(place)))
    writer.start()
    assert writer.flush(10)
    writer.close()
    assert redis_client.xlen(SAMPLES) == 50
    assert dropped(metrics, "trimmed_count") == 70
    assert redis_client.hgetall(SAMPLES_TRIMMED) == {b"count": b"70"}


@pytest.mark.parametrize("error", [ValueError("a fault of the trim"), OSError("another")])
def test_a_trim_that_fails_costs_no_request(
    metrics: Metrics, redis_client: redis.Redis, error: Exception
) -> None:
    class FailsToTrimAtFirst(SampleLog):
        trims = 0

        def trim(self, max_entries: int, max_age_s: float) -> dict[str, int]:
            self.trims += 1
            if self.trims == 1:
                raise error
            return super().trim(max_entries, max_age_s)

    loop = Loops().add("sample-writer")
    log = FailsToTrimAtFirst(redis_client)
    writer = SampleWriter(log, metrics, loop, buffer_groups=1000, max_groups=50, max_age_s=1e6)
    writer.offer(request("first"))
    writer.start()
    assert writer.flush(10)
    writer.offer(request("later"))
    assert writer.flush(10)
    writer.close()
    assert redis_client.xlen(SAMPLES) == 4
    assert value_of(metrics.samples_logged) == 4
    assert dropped(metrics, "unencodable") == 0
    assert log.trims > 1
