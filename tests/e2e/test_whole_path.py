"""The whole path on real parts: `metarm up` with the real encoder, scoring, retrain, swap and restart."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from metarm import RewardClient
from metarm.shared.keys import SAMPLES
from metarm.shared.sample_log import SampleLog
from tests.demo_groups import demo_groups
from tests.offline import TOLERANCE, OfflineModel
from tests.processes import HttpProcess, system

# few and small updates, and few held-out pairs: the path is the same
FAST = {
    "METARM_BOOTSTRAP_PAIRS": "64",
    "METARM_MAX_HELD_OUT": "64",
    "METARM_STEPS": "3",
    "METARM_META_BATCH_SIZE": "2",
    "METARM_GATE_TOLERANCE": "1",
}
READY_S = 240.0


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("system")


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[HttpProcess]:
    with system(data_dir, **FAST) as process:
        process.wait_ready(READY_S)
        yield process


def redis_of(data_dir: Path) -> redis.Redis:
    return redis.Redis.from_url(f"unix://{data_dir}/redis/redis.sock")


def child(process: HttpProcess, module: str) -> psutil.Process:
    """The child process that runs `python -m module`, or whose name is `module`."""
    for candidate in psutil.Process(process.pid).children():
        if module in candidate.cmdline() or candidate.name() == module:
            return candidate
    raise AssertionError(f"no child {module}:\n{process.output}")


def test_the_first_start_prints_its_addresses_and_creates_the_first_version(
    running: HttpProcess, data_dir: Path
) -> None:
    running.wait_until(lambda: "ready to score. Try" in running.output)
    assert running.url in running.output
    assert f"unix://{data_dir}/redis/redis.sock" in running.output
    assert "curl" in running.output
    manifest = running.http.get("/versions/v000001").json()
    assert manifest["method"] == "bootstrap"
    assert manifest["metrics"]["steps"] == 4
    assert running.http.get("/ready").json() == {"status": "ready", "version": "v000001", "degraded": []}


def test_a_retrain_with_too_few_samples_is_refused_with_the_required_number(running: HttpProcess) -> None:
    answer = running.http.post("/retrain")
    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["need"]["groups"] == 128
    assert "128 are needed" in answer.json()["error"]["message"]


def test_scored_samples_are_trained_into_a_new_version_that_serves(
    running: HttpProcess, data_dir: Path
) -> None:
    groups = demo_groups(200)
    with RewardClient(running.url) as client:
        for first in range(0, 200, 20):
            result = client.score(groups[first : first + 20], policy={"name": "actor", "step": first})
            assert result.version == "v000001"
        accepted = running.http.post("/retrain", json={"ascent_rate": 0.01})
        assert accepted.status_code == 202
        job = accepted.json()["job"]
        assert accepted.json()["status_url"] == f"/retrain/{job}"
        second = running.http.post("/retrain")
        assert second.status_code == 409
        assert second.json()["error"]["details"]["job"] == job
        seen: set[str] = set()
        state = client.wait_for_job(
            job, timeout_s=400, poll_s=0.05, on_progress=lambda s: seen.add(s["status"])
        )
    assert state["status"] == "published", state
    assert "running" in seen
    assert state["candidate"] == "v000002"
    assert state["progress"]["step"] == state["progress"]["steps"] == 3
    assert state["verdict"]["accepted"]
    assert state["samples"] == {"used": 200, "superseded": 0, "single_response": 0, "unreadable": 0}

    running.wait_until(lambda: running.http.get("/ready").json()["version"] == "v000002")
    answer = running.http.post("/score", json={"groups": groups[:4], "log": False, "raw": True}).json()
    assert answer["version"] == "v000002"
    offline = OfflineModel(data_dir / "versions" / "v000002")
    for group, scored in zip(groups[:4], answer["groups"], strict=True):
        expected = [offline.score(group["prompt"], response) for response in group["responses"]]
        assert scored["raw"] == pytest.approx(expected, abs=TOLERANCE)
    manifest = running.http.get("/versions/v000002").json()
    assert manifest["parent"] == "v000001"
    assert manifest["job"] == job
    assert manifest["samples"]["policy_steps"] == [0, 180]
    assert SampleLog(redis_of(data_dir)).count_unused(1000) == 0


def test_one_call_rolls_back_or_forward(running: HttpProcess) -> None:
    for version in ("v000001", "v000002"):
        answer = running.http.post(f"/versions/{version}/activate")
        assert answer.json() == {"current": version, "serving": version}
        assert (
            running.http.post("/score", json={"groups": demo_groups(1), "log": False}).json()["version"]
            == version
        )
    missing = running.http.post("/versions/v000042/activate")
    assert missing.status_code == 409
    assert "v000002" in missing.json()["error"]["message"]


def test_a_trainer_killed_during_a_run_restarts_and_finishes_it_with_the_same_samples(
    running: HttpProcess, data_dir: Path
) -> None:
    with RewardClient(running.url) as client:
        for first in range(0, 200, 20):
            client.score(demo_groups(200)[first : first + 20])
        job = client.retrain(steps=6)["job"]
        running.wait_until(lambda: client.job(job)["progress"]["step"] >= 2, 120)
        child(running, "trainer").kill()
        state = client.wait_for_job(job, timeout_s=400)
        assert state["status"] == "published", state
        running.wait_until(lambda: client.ready()["version"] == state["candidate"])
    assert state["attempts"] == 2
    assert state["samples"]["used"] == 200
    assert SampleLog(redis_of(data_dir)).count_unused(1000) == 0


def test_a_cancelled_job_keeps_its_samples_for_the_next_job(running: HttpProcess, data_dir: Path) -> None:
    with RewardClient(running.url) as client:
        for first in range(0, 140, 20):
            client.score(demo_groups(140)[first : first + 20])
        current = client.ready()["version"]
        job = client.retrain(steps=50)["job"]
        running.wait_until(lambda: client.job(job)["progress"]["step"] >= 1, 120)
        client.cancel(job)
        assert client.wait_for_job(job)["status"] == "cancelled"
        assert client.ready()["version"] == current
    assert SampleLog(redis_of(data_dir)).count_unused(1000) == 140


def test_a_killed_service_restarts_on_the_same_version(running: HttpProcess) -> None:
    before = running.http.get("/ready").json()["version"]
    killed = child(running, "service")
    killed.kill()
    running.wait_until(lambda: running.answers("/ready") and child(running, "service").pid != killed.pid, 120)
    assert running.http.get("/ready").json()["version"] == before


def test_a_full_restart_loses_no_sample_and_serves_the_same_version(
    running: HttpProcess, data_dir: Path
) -> None:
    client_ = redis_of(data_dir)
    version = running.http.get("/ready").json()["version"]
    with RewardClient(running.url) as client:
        before = client_.xlen(SAMPLES)
        client.score(demo_groups(20))
    os.killpg(running.pid, signal.SIGINT)  # like Ctrl-C in a terminal, right after the last answer
    assert running.wait(90) == 0
    assert "stopped" in running.output
    with pytest.raises(httpx.TransportError):
        running.http.get("/health")
    running.start()
    running.wait_ready(60)
    assert running.http.get("/ready").json()["version"] == version
    assert client_.xlen(SAMPLES) == before + 20


def test_a_killed_redis_restarts_with_every_sample(running: HttpProcess, data_dir: Path) -> None:
    client_ = redis_of(data_dir)
    before = client_.xlen(SAMPLES)
    child(running, "valkey-server").kill()
    with RewardClient(running.url) as client:
        client.score(demo_groups(20))
    running.wait_until(lambda: _length(client_) == before + 20)


def test_a_second_launcher_on_the_same_data_directory_is_refused(running: HttpProcess, data_dir: Path) -> None:
    with system(data_dir) as second:
        assert second.wait() == 78
        assert "another `metarm up` is running" in second.output


def test_an_occupied_port_ends_the_launcher_with_a_reason(running: HttpProcess, tmp_path: Path) -> None:
    with system(tmp_path / "other", METARM_PORT=str(running.port)) as other:
        assert other.wait() == 78
        assert f"cannot listen on 127.0.0.1:{running.port}" in other.output


def test_the_store_refuses_to_continue_from_another_model(running: HttpProcess, data_dir: Path) -> None:
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait(90) == 0
    with system(data_dir, METARM_MODEL="/somewhere/else") as other:
        assert other.wait(90) != 0
        assert "use another --data-dir" in other.output


def _length(client_: redis.Redis) -> int:
    try:
        return client_.xlen(SAMPLES)
    except redis.RedisError:
        return -1
