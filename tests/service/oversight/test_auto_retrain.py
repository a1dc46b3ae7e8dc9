"""Automatic retraining over real HTTP and a real Redis: servers, and a trainer that is only registered.

A policy whose responses a version separates well, and later less, is two fixed groups: the responses with the
lowest and the highest of the version's scores, and two with neighbouring scores.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from metarm.shared.jobs import Job, JobBoard
from metarm.shared.keys import RETRAIN_COOLDOWN
from metarm.shared.presence import TrainerPresence
from metarm.store.versions import VersionStore
from tests.processes import RedisProcess, Served, service_here, two_services_here
from tests.service.oversight.test_watch import WIDE, drift, score
from tests.store import publish
from tests.tiny import CORPUS, Kind

COOLDOWN_S = 1000
AUTO = {
    "METARM_RETRAIN": "auto",
    "METARM_RETRAIN_OVER_GROUPS": "20",
    "METARM_RETRAIN_COOLDOWN_S": str(COOLDOWN_S),
    "METARM_WATCH_GROUPS": "0",
    "METARM_POLL_MS": "50",
}
HIGH = {**WIDE, "spread": 0.001}  # so small a reference that every ratio is high
TRAINER = {"state": "ready", "min_groups": 1, "min_preferences": 1, "preferences": 5}
HOUR_MS = 3_600_000
Checkpoint = Callable[[Kind], Path]
Pair = tuple[str, str]


def auto(process: Served) -> dict[str, Any]:
    found: dict[str, Any] = drift(process)["auto_retrain"]
    return found


def wait_for(process: Served, state: str, says: str = "") -> str:
    """Wait for a state whose reason contains `says`; the reason."""
    process.wait_until(
        lambda: auto(process)["state"] == state and says in str(auto(process)["reason"]), timeout_s=30
    )
    return str(auto(process)["reason"])


def answer(process: Served, responses: Sequence[str], count: int = 20) -> list[float]:
    """Score the group `count` times; the scores."""
    body = {"groups": [{"prompt": "Which?", "responses": list(responses)}] * count}
    answered = process.http.post("/score", json=body)
    assert answered.status_code == 200, answered.text
    scores: list[float] = answered.json()["groups"][0]["scores"]
    return scores


def pairs(process: Served) -> tuple[Pair, Pair]:
    """Two responses that the current version separates well, and two that it hardly does."""
    words = " ".join(CORPUS).split()
    texts = [" ".join(words[place : place + 3]) for place in range(len(words) - 3)]
    body = {"groups": [{"prompt": "Which?", "responses": texts}]}
    scores = process.http.post("/score", json=body).json()["groups"][0]["scores"]
    ranked = [text for _, text in sorted(zip(scores, texts, strict=True))]
    by_score = dict(zip(texts, scores, strict=True))
    near = min(itertools.pairwise(ranked), key=lambda pair: by_score[pair[1]] - by_score[pair[0]])
    return (ranked[0], ranked[-1]), near


@pytest.fixture
def responses(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, redis_process: RedisProcess
) -> tuple[Pair, Pair]:
    """`pairs` of the version that the tests publish, from a server and a store apart, so that the figures of
    the servers under test do not count them."""
    folder = tmp_path_factory.mktemp("apart")
    publish(folder, checkpoint("bert"), reference=HIGH)
    with service_here(folder, redis_process.url) as process, redis_process.client() as client:
        process.wait_ready()
        found = pairs(process)
        client.flushdb()
    return found


def test_two_servers_trigger_one_run_and_the_job_records_the_trigger_figures(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint, responses: tuple[Pair, Pair]
) -> None:
    wide, near = responses
    publish(tmp_path, checkpoint("bert"), reference=HIGH)
    with (
        two_services_here(tmp_path, redis_process.url, **AUTO) as (one, other),
        redis_process.client() as client,
    ):
        board = JobBoard(client)
        answer(one, wide)  # the other server has not seen the first groups
        wait_for(one, "steady")
        for process in (one, other):
            answer(process, near)
        assert "trainer_unavailable" in wait_for(one, "held_back")
        assert one.http.get("/ready").json()["degraded"][0]["part"] == "trainer"

        assert TrainerPresence(client).hold("test", TRAINER, HOUR_MS)
        one.wait_until(lambda: {auto(one)["state"], auto(other)["state"]} == {"triggered", "cooling_down"})
        (job,) = board.recent(10)
        trigger = job.trigger
        assert trigger is not None
        assert (trigger["version"], trigger["below"], trigger["groups"]) == ("v000001", 0.5, 20)
        ratio = trigger["spread_to_reference"]
        assert 0 < ratio < 0.5 * trigger["first_spread_to_reference"]
        assert ratio == trigger["spread"] / trigger["reference_spread"]
        answered = one.http.get(f"/retrain/{job.id}").json()["trigger"]
        assert answered == {**trigger, "spread_ratio": ratio}  # deprecated
        for process in (one, other):
            process.wait_until(lambda process=process: len(auto(process)["triggers"]) == 1)  # type: ignore[misc]
        counted = [
            "rm_auto_retrain_triggers_total 1.0" in process.http.get("/metrics").text
            for process in (one, other)
        ]
        assert sorted(counted) == [False, True]
        assert one.http.post("/retrain").json()["error"]["code"] == "job_running"

        board.finish(job, "rejected", candidate="v000002")  # the cool-down still applies, twice as long
        for process in (one, other):
            reason = wait_for(process, "cooling_down", "the last run did not help")
            assert f"of {2 * COOLDOWN_S}," in reason
            assert f"({job.id}: the gate rejected v000002)" in reason
        assert board.active() is None
        assert COOLDOWN_S < client.ttl(RETRAIN_COOLDOWN) <= 2 * COOLDOWN_S
        client.delete(RETRAIN_COOLDOWN)
        one.wait_until(lambda: board.active() is not None)
        assert COOLDOWN_S < client.ttl(RETRAIN_COOLDOWN) <= 2 * COOLDOWN_S


def test_no_run_starts_without_a_reference_or_with_too_few_groups(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint
) -> None:
    publish(tmp_path, checkpoint("bert"), reference=None)
    with service_here(tmp_path, redis_process.url, **AUTO) as process, redis_process.client() as client:
        process.wait_ready()
        TrainerPresence(client).hold("test", TRAINER, HOUR_MS)
        wait_for(process, "no_reference")
        publish(tmp_path, checkpoint("bert"), reference=HIGH)
        process.wait_until(lambda: process.http.get("/versions").json()["serving"] == "v000002")
        score(process, 2, count=15)
        wait_for(process, "waiting", "answered 15 groups")
        score(process, 3, count=15)
        wait_for(process, "steady")
        assert JobBoard(client).recent(10) == []


def test_a_version_that_is_low_from_the_start_starts_a_run_only_after_a_fall(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint, responses: tuple[Pair, Pair]
) -> None:
    wide, near = responses
    publish(tmp_path, checkpoint("bert"), reference={**WIDE, "spread": 1000.0})
    with service_here(tmp_path, redis_process.url, **AUTO) as process, redis_process.client() as client:
        process.wait_ready()
        TrainerPresence(client).hold("test", TRAINER, HOUR_MS)
        answer(process, wide)
        assert wait_for(process, "low_from_start").startswith("low from the start: v000001 began at 0.0")
        assert JobBoard(client).recent(10) == []
        answer(process, near)
        wait_for(process, "triggered")


def test_repeated_responses_are_neither_spread_nor_a_fall(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint, responses: tuple[Pair, Pair]
) -> None:
    (low, high), _ = responses
    publish(tmp_path, checkpoint("bert"), reference=HIGH)
    with service_here(tmp_path, redis_process.url, **AUTO) as process, redis_process.client() as client:
        process.wait_ready()
        TrainerPresence(client).hold("test", TRAINER, HOUR_MS)
        answer(process, [low, high])
        wait_for(process, "steady")
        scores = answer(process, [low] * 15 + [high])
        process.wait_until(lambda: drift(process)["versions"][0]["total"]["groups"] == 40)
        (figures,) = drift(process)["versions"]
        assert figures["window"]["spread"] == pytest.approx(abs(scores[0] - scores[-1]))
        assert figures["window"]["spread"] == pytest.approx(figures["total"]["spread"])
        assert figures["window"]["responses"] == 20 * 16
        answer(process, [low] * 8)
        wait_for(process, "waiting", "answered 20 groups, 0 of two or more distinct responses")
        (figures,) = drift(process)["versions"]
        assert figures["window"]["spread"] is None
        assert (figures["window"]["groups"], figures["window"]["compared_groups"]) == (20, 0)
        assert JobBoard(client).recent(10) == []


def test_a_restarted_server_measures_the_fall_from_the_versions_first_groups(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint, responses: tuple[Pair, Pair]
) -> None:
    """Also those that it answered before automatic runs were on."""
    wide, near = responses
    publish(tmp_path, checkpoint("bert"), reference=HIGH)
    with redis_process.client() as client:
        TrainerPresence(client).hold("test", TRAINER, HOUR_MS)
        with service_here(tmp_path, redis_process.url, **{**AUTO, "METARM_RETRAIN": "manual"}) as process:
            process.wait_ready()
            answer(process, wide)
            process.wait_until(lambda: bool(client.keys("metarm:retrain:first:*")))
            answer(process, near)
        with service_here(tmp_path, redis_process.url, **AUTO) as process:
            process.wait_ready()
            answer(process, near)
            wait_for(process, "triggered")


@pytest.mark.slow
def test_runs_that_do_not_help_double_the_wait_over_restarts_and_one_that_helps_ends_that(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint, responses: tuple[Pair, Pair]
) -> None:
    wide, near = responses
    publish(tmp_path, checkpoint("bert"), reference=HIGH)
    with redis_process.client() as client:
        TrainerPresence(client).hold("test", TRAINER, HOUR_MS)
        board = JobBoard(client)

        def started() -> Job:
            client.delete(RETRAIN_COOLDOWN)
            process.wait_until(lambda: board.active() is not None)
            job = board.active()
            assert job is not None
            return job

        with service_here(tmp_path, redis_process.url, **AUTO) as process:
            process.wait_ready()
            answer(process, wide)
            wait_for(process, "steady")
            answer(process, near)
            board.finish(started(), "failed", error={"code": "training_failed", "message": "no memory"})
            wait_for(process, "cooling_down", "it failed: no memory")
        with service_here(tmp_path, redis_process.url, **AUTO) as process:
            process.wait_ready()
            answer(process, near)
            assert "it failed: no memory" in wait_for(process, "cooling_down", f"of {2 * COOLDOWN_S}")

            # published, and on the same responses no better: the child is low from its start
            job = started()
            publish(tmp_path, checkpoint("bert"), reference=HIGH)
            board.finish(job, "published", candidate="v000002")
            process.wait_until(lambda: process.http.get("/versions").json()["serving"] == "v000002")
            answer(process, near)
            wait_for(process, "low_from_start")
            assert 2 * COOLDOWN_S < client.ttl(RETRAIN_COOLDOWN) <= 4 * COOLDOWN_S
            assert "did not help: the spread ratio was" in process.output
            assert f"from its start to the next run: {4 * COOLDOWN_S} s" in process.output

            # an operator returns to the parent, whose fall is still there; then a run helps
            VersionStore(tmp_path / "versions").activate("v000001")
            process.wait_until(lambda: process.http.get("/versions").json()["serving"] == "v000001")
            wait_for(process, "cooling_down", "2 runs in a row did not help")
            job = started()
            publish(tmp_path, checkpoint("bert"), reference=HIGH)
            board.finish(job, "published", candidate="v000003")
            process.wait_until(lambda: process.http.get("/versions").json()["serving"] == "v000003")
            answer(process, wide)
            wait_for(process, "steady")
            assert 0 < client.ttl(RETRAIN_COOLDOWN) <= COOLDOWN_S


def test_retrain_is_manual_by_default_and_drift_reports_it(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_ready()
        found = drift(process)["auto_retrain"]
    assert found == {"retrain": "manual", "state": "off", "reason": None, "triggers": []}
