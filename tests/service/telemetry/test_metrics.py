"""GET /metrics of a real server: traffic, labels, the trainer and its jobs."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from metarm.records import JobStatus
from metarm.shared.jobs import JobBoard
from metarm.shared.presence import TrainerPresence
from metarm.store.versions import Label, VersionStore
from service.telemetry.metrics import MOST_VERSIONS, Metrics
from tests.processes import RedisProcess, Served, service_here
from tests.store import publish
from tests.tiny import Kind

Checkpoint = Callable[[Kind], Path]
GROUPS = [
    {"prompt": "What is seventeen plus twenty five?", "responses": ["It is forty two.", "Forty", "The trains."]}
]


def series(process: Served) -> dict[str, float]:
    lines = process.http.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def names_of(found: dict[str, float], metric: str) -> set[str]:
    return {name for name in found if re.fullmatch(rf"{metric}(\{{.*\}})?", name)}


@pytest.mark.parametrize(("kind", "pads"), [("bert", False), ("llama", False), ("gpt2", True)])
def test_the_metrics_report_the_tokens_duration_and_padding_of_slices(
    kind: Kind, pads: bool, checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, checkpoint(kind))
    alone = {"METARM_SCORE_WORKERS": "1", "METARM_SCORE_THREADS": "1"}
    with service_here(tmp_path, redis_process.url, **alone) as process:
        process.wait_ready()
        answer = process.http.post("/score", json={"groups": GROUPS}).json()
        found = series(process)
    assert found["rm_forward_duration_seconds_count"] == found["rm_batch_tokens_count"] >= 1
    assert found["rm_queue_duration_seconds_count"] == 1
    lengths = answer["groups"][0]["tokens"]
    if kind == "llama":  # the prompt's tokens count once
        assert max(lengths) < found["rm_batch_tokens_sum"] < sum(lengths)
    else:
        assert found["rm_batch_tokens_sum"] == sum(lengths)
    padding = 1 - sum(lengths) / (len(lengths) * max(lengths)) if pads else 0.0
    assert found["rm_padding_ratio_sum"] == pytest.approx(padding)
    assert found["rm_padding_ratio_count"] == 1
    assert found["rm_version_load_duration_seconds_count"] == 1
    assert found["rm_version_load_duration_seconds_sum"] > 0
    assert found["process_resident_memory_bytes"] > 0


def test_the_version_metric_names_the_current_version_and_the_version_of_each_label(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, checkpoint("bert"))
    publish(tmp_path, checkpoint("bert"), activate=False)
    with service_here(tmp_path, redis_process.url, METARM_POLL_MS="50") as process:
        process.wait_ready()
        assert names_of(series(process), "rm_version_info") == {'rm_version_info{label="",version="v000001"}'}
        VersionStore(tmp_path / "versions").set_label("stable", Label("v000001"))
        VersionStore(tmp_path / "versions").set_label("canary", Label("v000002", share=0.1))
        labelled = {
            'rm_version_info{label="",version="v000001"}',
            'rm_version_info{label="stable",version="v000001"}',
            'rm_version_info{label="canary",version="v000002"}',
        }
        process.wait_until(lambda: names_of(series(process), "rm_version_info") == labelled)
        VersionStore(tmp_path / "versions").remove_label("canary")
        process.wait_until(lambda: len(names_of(series(process), "rm_version_info")) == 2)


def test_the_services_metrics_report_the_trainer_and_the_outcomes_of_its_jobs(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess, redis_client: redis.Redis
) -> None:
    publish(tmp_path, checkpoint("bert"))
    jobs = JobBoard(redis_client)
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_ready()
        found = series(process)
        assert found["rm_trainer_up"] == found["rm_retrain_active"] == 0
        assert not names_of(found, "rm_retrain_last_status")
        assert ended(found) == {"published": 0, "rejected": 0, "failed": 0, "cancelled": 0}

        assert TrainerPresence(redis_client).hold("a trainer", {"state": "ready"}, 60_000)
        job = jobs.create({})
        jobs.save(job.with_changes(status="running", progress={"step": 3, "steps": 40, "loss": 0.25}))
        found = series(process)
        assert (found["rm_trainer_up"], found["rm_retrain_active"]) == (1, 1)
        assert (found["rm_retrain_step"], found["rm_retrain_steps"], found["rm_retrain_loss"]) == (3, 40, 0.25)

        figures = {"held_out_accuracy": 0.5, "group_spread": None}
        last = jobs.finish(job, "rejected", verdict={"figures": figures})
        jobs.tracker_failed("wandb")
        found = series(process)
        assert found["rm_retrain_active"] == 0
        assert not names_of(found, "rm_retrain_step")
        assert ended(found) == {"published": 0, "rejected": 1, "failed": 0, "cancelled": 0}
        assert found['rm_retrain_last_status{status="rejected"}'] == 1
        assert found['rm_retrain_last_status{status="failed"}'] == 0
        assert found["rm_retrain_last_finished_timestamp_seconds"] == last.finished
        assert found['rm_retrain_gate_figure{figure="held_out_accuracy"}'] == 0.5
        assert len(names_of(found, "rm_retrain_gate_figure")) == 1
        assert found['rm_tracker_failures_total{tracker="wandb"}'] == 1

        redis_process.kill(signal.SIGKILL)
        redis_process.wait()
        found = series(process)
        assert not names_of(found, "rm_trainer_up")
        assert not names_of(found, "rm_retrain_jobs_total")
        process.wait_until(lambda: series(process)["rm_redis_up"] == 0)


def test_a_job_is_counted_once_even_if_its_end_is_written_twice(redis_client: redis.Redis) -> None:
    jobs = JobBoard(redis_client)
    statuses: list[JobStatus] = ["failed", "failed", "cancelled"]
    for status in statuses:
        job = jobs.create({})
        jobs.finish(job, status)
        jobs.finish(job, status)
    assert jobs.ended() == {"failed": 2, "cancelled": 1}


def ended(found: dict[str, float]) -> dict[str, float]:
    name = re.compile(r'rm_retrain_jobs_total\{status="(\w+)"\}')
    return {match[1]: value for key, value in found.items() if (match := name.fullmatch(key))}


def test_only_versions_in_memory_and_those_loaded_last_have_series() -> None:
    metrics = Metrics()
    for number in range(1, 1001):
        version = f"v{number:06d}"
        metrics.count_load(version, ["v000001"])
        metrics.responses_scored.labels(version).inc(3)
        metrics.drift.score.labels(version).observe(0.5)
        metrics.drift.rollbacks.labels(version).inc()
    text = metrics.render().decode()
    kept = {"v000001", *(f"v{number:06d}" for number in range(1001 - MOST_VERSIONS, 1001))}
    for metric in (
        "rm_version_loads_total",
        "rm_responses_scored_total",
        "rm_score_count",
        "rm_rollbacks_total",
    ):
        assert set(re.findall(rf'^{metric}{{version="(v\d+)"}}', text, re.MULTILINE)) == kept
    assert 'rm_responses_scored_total{version="v000001"} 3.0' in text
    assert "rm_build_info{version=" in text
