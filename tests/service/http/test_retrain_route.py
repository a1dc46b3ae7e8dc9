"""POST /retrain with `reuse`, over real HTTP and a real Redis; the trainer is only registered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from metarm.client import RewardClient
from metarm.errors import ClientError
from metarm.records import JobStatus, SampleGroup
from metarm.shared.jobs import Job, JobBoard
from metarm.shared.presence import TrainerPresence
from metarm.shared.sample_log import LoggedRequest, SampleLog
from metarm.store.versions import VersionStore
from tests.processes import HttpThread, RedisProcess, service_here
from tests.store import publish
from tests.tiny import Kind

HOUR_MS = 3_600_000
TRAINER = {"state": "ready", "min_groups": 4, "min_preferences": 1, "preferences": 5}


@dataclass
class Bench:
    process: HttpThread
    jobs: JobBoard
    log: SampleLog
    store: VersionStore

    def add_groups(self, count: int) -> None:
        for _ in range(count):
            name = str(time.monotonic_ns())
            sample = SampleGroup(name, name, "prompt", ("a", "b"), (0.0, 1.0), "v000001", time.time())
            self.log.append([LoggedRequest(name, (sample,), 60)])

    def ended(self, status: JobStatus, *, ranges: bool = True, **changes: Any) -> Job:
        """A job that has used all unused groups."""
        unused = self.log.read_unused(100)
        read = {
            "first_entry": unused.first_entry,
            "last_entry": unused.last_entry,
            "groups": len(unused.groups),
        }
        job = self.jobs.create({})
        self.log.acknowledge_through(unused.last_entry)
        return self.jobs.finish(job, status, ranges=[read] if ranges else None, **changes)

    def refused(self, reuse: str) -> dict[str, Any]:
        answer = self.process.http.post("/retrain", json={"reuse": reuse})
        error: dict[str, Any] = answer.json()["error"]
        return {"status": answer.status_code, **error}


@pytest.fixture
def bench(
    tmp_path: Path,
    redis_process: RedisProcess,
    redis_client: redis.Redis,
    checkpoint: Callable[[Kind], Path],
) -> Iterator[Bench]:
    publish(tmp_path, checkpoint("bert"))
    assert TrainerPresence(redis_client).hold("test", TRAINER, HOUR_MS)
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_ready()
        store = VersionStore(tmp_path / "versions")
        yield Bench(process, JobBoard(redis_client), SampleLog(redis_client), store)


@pytest.mark.parametrize("status", ["rejected", "published", "failed", "cancelled"])
def test_the_samples_of_a_job_that_ended_count_for_the_next_one(bench: Bench, status: JobStatus) -> None:
    bench.add_groups(4)
    first = bench.ended(status)
    answer = bench.process.http.post("/retrain")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_enough_data")
    with RewardClient(bench.process.url) as client:
        bench.jobs.save(bench.jobs.get(first.id).with_changes(options={"steps": 9, "seed": 5, "force": True}))
        job = client.retrain(reuse=first.id, steps=3)["job"]
        # one change at a time: the others are repeated, but for `force`
        assert client.job(job)["options"] == {"reuse": first.id, "steps": 3, "seed": 5}
    assert bench.refused(first.id)["code"] == "job_running"
    assert bench.refused(job)["code"] == "job_running"


def test_new_and_reused_groups_are_counted_together(bench: Bench) -> None:
    bench.add_groups(3)
    first = bench.ended("rejected")
    refused = bench.refused(first.id)
    assert (refused["status"], refused["code"]) == (422, "not_enough_data")
    assert refused["message"].startswith(f"3 of the 3 sample groups that {first.id} used are still in the log")
    assert refused["message"].endswith("0 newer groups are unused; 4 are needed")
    assert refused["details"]["have"] == {"groups": 3, "reused": 3, "trimmed": 0}
    bench.add_groups(1)
    assert bench.process.http.post("/retrain", json={"reuse": first.id}).status_code == 202


def test_a_job_whose_samples_are_all_trimmed_cannot_be_reused(bench: Bench) -> None:
    bench.add_groups(5)
    first = bench.ended("rejected")
    bench.add_groups(6)
    bench.log.trim(max_entries=6, max_age_s=3600)
    refused = bench.refused(first.id)
    assert (refused["status"], refused["code"]) == (422, "not_enough_data")
    assert refused["details"] == {
        "have": {"groups": 6, "reused": 0, "trimmed": 5},
        "need": {"groups": 4},
    }
    assert bench.process.http.post("/retrain").status_code == 202  # without reuse


def test_unknown_jobs_and_those_without_samples_are_refused(bench: Bench) -> None:
    cancelled = bench.jobs.create({})
    bench.jobs.request_cancel(cancelled.id)
    bench.jobs.finish(cancelled, "cancelled")
    for name in ("job-000000000000", "v000001", f"{cancelled.id}:cancel", "ä\n"):
        assert (bench.refused(name)["status"], bench.refused(name)["code"]) == (404, "unknown_job")
    without = bench.refused(cancelled.id)
    assert (without["status"], without["code"]) == (422, "not_enough_data")
    assert "no recorded samples" in without["message"]
    for invalid in ("", "x" * 201, 5, ["job-1"]):
        answer = bench.process.http.post("/retrain", json={"reuse": invalid})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


def test_the_job_of_an_earlier_release_is_reused_by_its_manifest(bench: Bench) -> None:
    bench.add_groups(4)
    read = bench.log.read_unused(100)
    samples = {"first_entry": read.first_entry, "last_entry": read.last_entry, "counts": read.counts}
    name, _ = bench.store.stage()
    bench.store.reject(name, {"samples": samples})
    first = bench.ended("rejected", ranges=False, candidate=name)
    assert bench.process.http.post("/retrain", json={"reuse": first.id}).status_code == 202


def test_a_client_gets_the_code_of_a_refusal(bench: Bench) -> None:
    with RewardClient(bench.process.url) as client, pytest.raises(ClientError) as refused:
        client.retrain(reuse="job-000000000000")
    assert (refused.value.error_code, refused.value.http_status) == ("unknown_job", 404)
