"""bench/overhead: viewers send the requests of the page, and arms are compared within each round."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.overhead import ARMS, Found, interval, report
from bench.processes import Worker
from bench.viewers import PAGE, Audience
from tests.processes import HttpProcess, RedisProcess, service
from tests.store import publish
from tests.tiny import Kind


def answered(process: HttpProcess, route: str) -> float:
    series = f'rm_requests_total{{route="{route}",status="200"}} '
    lines = process.http.get("/metrics").text.splitlines()
    return sum(float(line.removeprefix(series)) for line in lines if line.startswith(series))


@pytest.mark.slow
def test_viewers_send_the_requests_that_the_page_sends(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    publish(tmp_path, checkpoint("bert"))
    scripts = "\n".join(file.read_text() for file in PAGE.glob("*.js"))
    read = {path.split("/$")[0] for path in re.findall(r"\bread\([\"`]([a-z]+(?:/\$)?)", scripts)}
    command = [sys.executable, "-m", "bench.viewers"]
    with service(tmp_path, redis_process.url) as process, Worker(command, tmp_path / "viewers", {}) as viewers:
        process.wait_ready()
        assert viewers.ask(asdict(Audience(process.url, 2, 0.1))) == {"asked": {}}
        # both open the page, and one polls again
        wanted = {"/overview": 5, "/retrain": 2, "/drift/{version}": 2}
        process.wait_until(lambda: all(answered(process, path) >= wanted[path] for path in wanted))
        asked = viewers.ask(asdict(Audience(process.url, 0, 0.0)))["asked"]
        assert viewers.ask(asdict(Audience(process.url, 0, 0.0))) == {"asked": {}}
    assert read == {"overview", "drift", "versions", "labels", "retrain"}
    assert read - {path.split("/")[0] for path in asked} == set()
    assert asked["overview"] >= 3
    assert asked["metrics"] >= 2
    assert asked["page/plotly.min.js"] == asked["page/main.js"] == asked[""] == 2


def test_an_arm_is_compared_with_no_viewers_in_the_same_round() -> None:
    alone, one, three = (arm.name for arm in ARMS)
    rates = {alone: [100.0, 50.0, 80.0], one: [99.0, 49.5, 79.2], three: [98.0, 48.0, 78.4]}
    tails = {name: [0.1, 0.2, 0.3] for name in rates}
    cpu_s = {alone: [2.0, 1.0, 4.0], one: [2.02, 1.01, 4.04], three: [2.1, 1.05, 4.2]}
    asked: dict[str, dict[str, int]] = {name: {} for name in rates}
    text = report(Found({"encoder": rates}, {"encoder": cpu_s}, {"encoder": tails}, {"encoder": asked}))
    rows = {line.split("  ")[1].strip(): line for line in text.splitlines() if line.startswith("encoder")}
    assert "0.9900" in rows[one]
    assert "1.0100" in rows[one]
    assert "0.9800" in rows[three]
    assert "1.0500" in rows[three]
    assert "200" in rows[alone]


def test_the_interval_covers_the_median_and_lies_within_the_range() -> None:
    ratios = [0.97, 0.99, 1.0, 1.01, 1.02]
    low, high = interval(ratios)
    assert 0.97 <= low <= 1.0 <= high <= 1.02
    assert interval([1.0, 1.0]) == pytest.approx((1.0, 1.0))
