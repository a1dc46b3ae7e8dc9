"""GET /overview and GET /drift/{version} on a real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metarm.shared.jobs import JobBoard
from metarm.shared.presence import TrainerPresence
from service.http.schemas.drift import RecentReport
from service.http.schemas.overview import Overview
from tests.processes import RedisProcess, Served, service_here
from tests.store import publish
from tests.tiny import Kind

Checkpoint = Callable[[Kind], Path]
GROUPS = [
    {"prompt": "What is it?", "responses": ["It is forty two.", "The first train.", "Yes.", "No."]},
    {"prompt": "Alone?", "responses": ["The second one is cheaper."]},
]


def overview(process: Served, since: float = 0.0) -> Overview:
    answer = process.http.get("/overview", params={"since": since})
    answer.raise_for_status()
    return Overview.model_validate(answer.json())  # the answer has the documented schema


def test_the_overview_reports_current_rates_latency_queue_and_versions(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with service_here(tmp_path, redis_process.url, METARM_QUEUE_TOKENS="5000") as process:
        process.http.put("/labels/stable", json={"version": "v000001"}).raise_for_status()
        for number in range(20):
            body = {"groups": [{**GROUPS[0], "prompt": f"Number {number}?"}, GROUPS[1]]}
            process.http.post("/score", json=body).raise_for_status()
        process.wait_until(lambda: overview(process).now.latency.requests == 20)
        seen = overview(process)
        rates = seen.now
        per_request = {"responses": rates.responses_per_s, "tokens": rates.tokens_per_s}
        assert rates.requests_per_s
        assert per_request["responses"] == pytest.approx(rates.requests_per_s * 5)
        assert rates.latency.p50_ms is not None
        assert rates.latency.p99_ms is not None
        assert 0 < rates.latency.p50_ms <= rates.latency.p99_ms
        assert rates.batch_fill is not None
        assert rates.batch_fill > 0
        assert (seen.serving, seen.loaded, seen.queue.limit) == ("v000001", ["v000001"], 5000)
        assert [(label.label, label.version) for label in seen.labels] == [("stable", "v000001")]
        assert sum(rate or 0 for rate in seen.history.responses_per_s) > 0
        assert overview(process, seen.history.at[-1]).history.at[:1] != seen.history.at[-1:]
        assert overview(process, time.time() + 60).history.at == []


def test_the_overview_reports_the_state_of_redis_the_trainer_and_its_job(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with service_here(tmp_path, redis_process.url) as process, redis_process.client() as client:
        process.wait_until(lambda: overview(process).redis == "up")
        assert [problem.part for problem in overview(process).degraded] == ["trainer"]
        board = JobBoard(client)
        TrainerPresence(client).hold("a", {"state": "ready"}, 60_000)
        job = board.create({})
        board.save(job.with_changes(status="running", progress={"step": 3, "steps": 40, "loss": 0.5}))
        process.wait_until(lambda: getattr(overview(process).job, "status", None) == "running")
        process.wait_until(lambda: overview(process).trainer is not None)
        seen = overview(process)
        assert seen.trainer
        assert seen.trainer.state == "ready"
        assert seen.job
        assert (seen.job.job, seen.job.status, seen.job.step, seen.job.steps) == (job.id, "running", 3, 40)
        assert seen.degraded == []
        TrainerPresence(client).hold("a", {"state": "ready", "failing": ["job-loop has failed"]}, 60_000)
        process.wait_until(lambda: overview(process).degraded != [])
        (problem,) = overview(process).degraded
        assert (problem.part, problem.reason) == ("loop", "the trainer's job-loop has failed")
        redis_process.__exit__()
        process.wait_until(lambda: overview(process).redis == "down")
        assert [problem.part for problem in overview(process).degraded] == ["redis"]


def test_the_overview_of_a_server_without_a_version_reports_it_as_degraded(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_until(lambda: process.answers("/overview"))
        seen = overview(process)
        assert seen.serving is None
        assert seen.degraded[0].part == "version"
        assert seen.now.latency.p50_ms is None


def test_recent_scores_of_two_versions_use_the_same_histogram_bins(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint
) -> None:
    publish(tmp_path, checkpoint("bert"))
    publish(tmp_path, checkpoint("bert"), activate=False)
    keys = {"METARM_SCORE_KEYS": '["worker-key"]'}
    with service_here(tmp_path, redis_process.url, **keys) as process:
        for path in ("/overview", "/drift/v000001", "/versions/v000001/curve"):
            assert process.http.get(path).json()["error"]["code"] == "unauthorized"
        process.http.headers["Authorization"] = "Bearer worker-key"

        def recent(path: str) -> RecentReport:
            return RecentReport.model_validate(process.http.get(f"/drift/{path}").json())

        assert recent("v000009").differences.pairs == 0
        for version in ("v000001", "v000002"):
            body = {"groups": GROUPS, "version": version}
            scores = process.http.post("/score", json=body).json()["groups"][0]["scores"]
        process.wait_until(lambda: recent("v000002").differences.pairs == 2)
        seen = recent("v000002?against=v000001")
        assert seen.against
        assert seen.against.version == "v000001"
        assert seen.against.differences == seen.differences  # the same weights
        width = seen.differences.width
        assert seen.differences.counts[int(abs(scores[0] - scores[1]) / width)] >= 1
        assert [round(score, 4) for score in scores] == seen.lengths.scores[:4]
        assert len(seen.lengths.tokens) == 5
        assert process.http.get("/drift/latest").status_code == 422
        assert process.http.get("/versions/v000001/curve").json()["loss"] == []


def test_the_overview_names_the_rights_of_the_key_that_was_sent(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    keys = {"METARM_SCORE_KEYS": '["worker-key"]', "METARM_ADMIN_KEYS": '["admin-key"]'}
    with service_here(tmp_path / "keys", redis_process.url, **keys) as process:
        for key, rights in [("worker-key", "score"), ("admin-key", "admin")]:
            process.http.headers["Authorization"] = f"Bearer {key}"
            assert overview(process).rights == rights
    with service_here(tmp_path / "open", redis_process.url) as process:
        assert overview(process).rights == "admin"
