"""Clients keep scoring while versions change: no request fails, no answer mixes versions."""

from __future__ import annotations

import random
import threading
from collections.abc import Sized
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hammer import random_group
from tests.offline import TOLERANCE, OfflineModel
from tests.processes import HttpProcess, RedisProcess, service
from tests.store import publish
from tests.tiny import make_checkpoint

CLIENTS = 8


def wait_for_more(process: HttpProcess, answers: Sized) -> None:
    seen = len(answers)
    process.wait_until(lambda: len(answers) >= seen + 10 * CLIENTS)


def test_eight_clients_score_through_three_swaps_and_each_answer_is_from_the_version_it_names(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    checkpoints = [make_checkpoint(tmp_path / f"m{seed}", "bert", seed=seed) for seed in range(4)]
    publish(tmp_path, checkpoints[0])
    answers: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []
    failures: list[str] = []
    stop = threading.Event()

    def client(process: HttpProcess, seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(base_url=process.url, timeout=30) as http:
            while not stop.is_set():
                groups = [random_group(rng, rng.randint(1, 4)) for _ in range(rng.randint(1, 3))]
                response = http.post("/score", json={"groups": groups})
                if response.status_code == 200:
                    answers.append((groups, response.json()))
                else:
                    failures.append(response.text)

    with service(tmp_path, redis_process.url, METARM_POLL_MS="50") as process:
        process.wait_ready()
        clients = [threading.Thread(target=client, args=(process, seed)) for seed in range(CLIENTS)]
        for thread in clients:
            thread.start()
        for checkpoint in checkpoints[1:]:
            wait_for_more(process, answers)
            name = publish(tmp_path, checkpoint)
            process.wait_until(lambda name=name: answers[-1][1]["version"] == name)  # type: ignore[misc]
        wait_for_more(process, answers)
        stop.set()
        for thread in clients:
            thread.join()

    assert failures == []
    versions = [answer["version"] for _, answer in answers]
    assert set(versions) == {"v000001", "v000002", "v000003", "v000004"}
    offline = {f"v00000{place + 1}": OfflineModel(folder) for place, folder in enumerate(checkpoints)}
    for groups, answer in random.Random(0).sample(answers, min(len(answers), 400)):
        for group, scored in zip(groups, answer["groups"], strict=True):
            expected = [offline[answer["version"]].score(group["prompt"], r) for r in group["responses"]]
            assert scored["scores"] == pytest.approx(expected, abs=TOLERANCE)


def test_a_corrupt_version_is_refused_and_the_current_version_keeps_serving(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, make_checkpoint(tmp_path / "good", "bert", seed=0))
    with service(tmp_path, redis_process.url, METARM_POLL_MS="50") as process:
        process.wait_ready()
        name = publish(tmp_path, make_checkpoint(tmp_path / "bad", "bert", seed=1), activate=False)
        weights = tmp_path / "versions" / name / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-100] ^= 1
        weights.write_bytes(data)
        from metarm.store.versions import VersionStore

        VersionStore(tmp_path / "versions").activate(name)
        process.wait_until(lambda: process.http.get("/ready").json()["status"] == "degraded")
        process.wait_until(lambda: 'rm_swap_total{result="refused"} 1.0' in process.http.get("/metrics").text)
        listed = process.http.get("/versions").json()
        answer = process.http.post("/score", json={"groups": [{"prompt": "x", "responses": ["y"]}]}).json()
    assert answer["version"] == listed["serving"] == "v000001"
    assert listed["refused"]["name"] == name
    assert "model.safetensors" in listed["refused"]["reason"]
