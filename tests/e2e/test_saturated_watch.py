"""A server whose queue is never empty still judges a promoted version, with a small share of its work."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import httpx

from service.oversight.shadow import BUSY_SHARE
from tests.hammer import Clients, random_group
from tests.processes import HttpProcess, RedisProcess, service
from tests.store import publish
from tests.tiny import make_checkpoint, with_head

CLIENTS, GROUPS, RESPONSES = 12, 64, 4  # seconds of work, so that stalled clients do not empty the queue
MOST_TOKENS = RESPONSES * 128  # per group, by the tiny model's context
SETTINGS = {
    "METARM_POLL_MS": "50",
    "METARM_WATCH_GROUPS": "200",  # the default
    "METARM_SCORE_CACHE_ENTRIES": "0",
    "METARM_SCORE_WORKERS": "1",
    "METARM_BATCH_TOKENS": "8",  # slow: more requests arrive than are scored
}


class Flood(Clients):
    """Clients that send the next request immediately after each answer or refusal, while the block runs."""

    def __init__(self, url: str) -> None:
        super().__init__(CLIENTS)
        self._url = url
        self.answers: list[tuple[int, str]] = []  # client and version
        self.statuses: set[int] = set()

    def clients_of(self, version: str) -> set[int]:
        return {client for client, by in self.answers if by == version}

    def run(self, number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=self._url, timeout=60) as http:
            while not self.stop.is_set():
                groups = [random_group(rng, RESPONSES) for _ in range(GROUPS)]
                answer = http.post("/score", json={"groups": groups, "log": False})
                self.statuses.add(answer.status_code)
                if answer.status_code == 200:
                    self.answers.append((number, answer.json()["version"]))


def watch(process: HttpProcess) -> dict[str, Any]:
    found: dict[str, Any] = process.http.get("/drift").json()["watch"]
    return found


def ended(process: HttpProcess, version: str) -> dict[str, Any]:
    """Wait until the watch of a version has ended, and return its record. Fail if the queue is ever empty."""
    while True:
        found = [record for record in watch(process)["ended"] if record["version"] == version]
        if found:
            return dict(found[0])
        assert counters(process, "rm_queue_tokens")[""] > 0
        time.sleep(0.1)


def counters(process: HttpProcess, name: str) -> dict[str, float]:
    """The values of a metric by its first label."""
    text = process.http.get("/metrics").text
    pattern = re.compile(rf'^{name}(?:{{\w+="([^"]*)"}})? (\S+)$', re.MULTILINE)
    return {label: float(value) for label, value in pattern.findall(text)}


def promote(process: HttpProcess, data_dir: Path, checkpoint: Path) -> str:
    name = publish(data_dir, checkpoint)
    process.wait_until(lambda: (watch(process)["watching"] or {}).get("version") == name)
    return name


def test_under_full_load_an_equal_version_passes_its_watch_and_a_reversed_one_is_rolled_back(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    sound = make_checkpoint(tmp_path / "sound", "bert")
    publish(tmp_path, sound)
    with service(tmp_path, redis_process.url, **SETTINGS) as process:
        process.wait_ready()
        with Flood(process.url) as flood:
            process.wait_until(lambda: counters(process, "rm_queue_tokens")[""] > 0)
            equal = promote(process, tmp_path, sound)
            process.wait_until(lambda: len(flood.clients_of(equal)) == CLIENTS)  # the parent answers no more
            before = counters(process, "rm_tokens_scored_total")
            passed = ended(process, equal)
            after = counters(process, "rm_tokens_scored_total")
            assert passed["outcome"] == "passed"
            compared = passed["figures"]["compared"]["groups"]
            assert counters(process, "rm_shadow_scored_total")["v000001"] >= compared >= 20
            shadow = after["v000001"] - before["v000001"]
            scored = sum(after.values()) - sum(before.values())
            assert shadow <= BUSY_SHARE * scored + 2 * MOST_TOKENS

            reversed_ = promote(process, tmp_path, with_head(tmp_path / "reversed", sound, -1))
            record = ended(process, reversed_)
            assert (record["outcome"], record["parent"]) == ("rolled_back", equal)
            assert "orders 1.000 of the pairs" in record["reason"]
            process.wait_until(lambda: process.http.get("/versions").json()["serving"] == equal)
        assert flood.statuses == {200}


def test_a_full_queue_that_refuses_requests_does_not_prevent_a_watch_from_being_judged(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    sound = make_checkpoint(tmp_path / "sound", "bert")
    publish(tmp_path, sound)
    full = {**SETTINGS, "METARM_QUEUE_TOKENS": "30000"}
    with service(tmp_path, redis_process.url, **full) as process:
        process.wait_ready()
        with Flood(process.url) as flood:
            process.wait_until(lambda: 503 in flood.statuses)
            reversed_ = promote(process, tmp_path, with_head(tmp_path / "reversed", sound, -1))
            assert ended(process, reversed_)["outcome"] == "rolled_back"
        assert flood.statuses == {200, 503}
