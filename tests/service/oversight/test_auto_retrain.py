"""Automatic retraining over real HTTP and a real Redis: two servers, and a trainer that is only registered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metarm.shared.jobs import JobBoard
from metarm.shared.keys import RETRAIN_COOLDOWN
from metarm.shared.presence import TrainerPresence
from tests.processes import RedisProcess, Served, service_here, two_services_here
from tests.service.oversight.test_watch import WIDE, drift, score
from tests.store import publish
from tests.tiny import Kind

AUTO = {"METARM_RETRAIN": "auto", "METARM_RETRAIN_OVER_GROUPS": "20", "METARM_WATCH_GROUPS": "0"}
TRAINER = {"state": "ready", "min_groups": 10, "min_preferences": 1, "preferences": 5}
HOUR_MS = 3_600_000


def state(process: Served) -> str:
    found: str = drift(process)["auto_retrain"]["state"]
    return found


@pytest.mark.slow
def test_two_servers_trigger_one_run_and_the_job_records_the_trigger_figures(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    publish(tmp_path, checkpoint("bert"), reference={**WIDE, "spread": 1000.0})
    with (
        two_services_here(tmp_path, redis_process.url, **AUTO) as (one, other),
        redis_process.client() as client,
    ):
        board = JobBoard(client)
        for process in (one, other):
            score(process, 1, policy={"name": "actor", "step": 3})
        one.wait_until(lambda: state(one) == "held_back")
        assert "trainer_unavailable" in drift(one)["auto_retrain"]["reason"]
        assert one.http.get("/ready").json()["degraded"][0]["part"] == "trainer"

        assert TrainerPresence(client).hold("test", TRAINER, HOUR_MS)
        one.wait_until(lambda: {state(one), state(other)} <= {"triggered", "cooling_down"})
        time.sleep(4)  # each server checks again
        (job,) = board.recent(10)
        trigger = job.trigger
        assert trigger is not None
        assert (trigger["version"], trigger["below"], trigger["groups"]) == ("v000001", 0.5, 20)
        ratio = trigger["spread_to_reference"]
        assert 0 < ratio < 0.01
        assert ratio == trigger["spread"] / trigger["reference_spread"]
        answered = one.http.get(f"/retrain/{job.id}").json()["trigger"]
        assert answered == {**trigger, "spread_ratio": ratio}  # deprecated
        for process in (one, other):
            process.wait_until(lambda process=process: len(drift(process)["auto_retrain"]["triggers"]) == 1)  # type: ignore[misc]
        counted = [
            "rm_auto_retrain_triggers_total 1.0" in process.http.get("/metrics").text
            for process in (one, other)
        ]
        assert sorted(counted) == [False, True]
        assert one.http.post("/retrain").json()["error"]["code"] == "job_running"

        board.finish(job, "rejected")  # the cool-down still applies
        time.sleep(4)
        assert board.active() is None
        assert 0 < client.ttl(RETRAIN_COOLDOWN) <= 3600
        client.delete(RETRAIN_COOLDOWN)
        one.wait_until(lambda: board.active() is not None)


def test_no_run_starts_without_a_reference_or_with_a_sufficient_spread(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    publish(tmp_path, checkpoint("bert"), reference=None)
    with service_here(tmp_path, redis_process.url, **AUTO) as process, redis_process.client() as client:
        process.wait_ready()
        TrainerPresence(client).hold("test", TRAINER, HOUR_MS)
        process.wait_until(lambda: state(process) == "no_reference")
        publish(tmp_path, checkpoint("bert"), reference={**WIDE, "spread": 0.001})
        process.wait_until(lambda: process.http.get("/versions").json()["serving"] == "v000002")
        score(process, 2, count=15)
        process.wait_until(lambda: "answered 15 groups" in str(drift(process)["auto_retrain"]["reason"]))
        score(process, 3, count=15)
        process.wait_until(lambda: state(process) == "steady")
        assert JobBoard(client).recent(10) == []


def test_retrain_is_manual_by_default_and_drift_reports_it(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_ready()
        found = drift(process)["auto_retrain"]
    assert found == {"retrain": "manual", "state": "off", "reason": None, "triggers": []}
