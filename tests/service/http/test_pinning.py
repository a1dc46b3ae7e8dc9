"""Over HTTP: pins in body and headers, raw and calibrated scores, and requests that run during a swap."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from metarm.store.versions import VersionStore
from tests.offline import TOLERANCE, OfflineModel
from tests.processes import RedisProcess, Served, service_here
from tests.store import publish_several
from tests.tiny import CORPUS

GROUP = {
    "prompt": "What is seventeen plus twenty five?",
    "responses": ["It is forty two.", "The first train.", ""],
}
LINE = {"scale": 0.25, "shift": -3.0}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions. The second is current and calibrated."""
    return publish_several(tmp_path_factory.mktemp("data"), 3, current=2, calibrations={2: LINE})


@pytest.fixture(scope="module")
def server(data_dir: Path, shared_redis: RedisProcess) -> Iterator[Served]:
    with service_here(data_dir, shared_redis.url, METARM_POLL_MS="50") as process:
        process.wait_ready()
        yield process


def send(process: Served, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return process.http.post(path, json={"groups": [GROUP], **body}, headers=named)


@pytest.mark.parametrize("name", ["X-RM-Version", "X-RM-Min-Version"])
def test_a_pin_that_is_sent_twice_must_agree(server: Served, name: str) -> None:
    for second, status in (("v000002", 422), ("v000001", 200)):
        answer = server.http.post(
            "/score", json={"groups": [GROUP]}, headers=[(name, "v000001"), (name, second)]
        )
        assert answer.status_code == status
        assert status == 200 or "sent twice" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/score", "/tokenize"])
@pytest.mark.parametrize(
    ("body", "headers", "version"),
    [
        ({}, {}, "v000002"),
        ({"version": "v000001"}, {}, "v000001"),
        ({}, {"X_RM_Version": "v000001"}, "v000001"),
        ({"version": "v000001"}, {"X_RM_Version": "v000001"}, "v000001"),
        ({"min_version": "v000001"}, {}, "v000002"),
        ({}, {"X_RM_Min_Version": "v000003"}, "v000003"),
        ({"version": "v000003"}, {"X_RM_Min_Version": "v000002"}, "v000003"),
    ],
)
def test_a_pin_in_body_or_headers_selects_the_version_and_the_answer_names_it_in_both(
    server: Served, path: str, body: dict[str, str], headers: dict[str, str], version: str
) -> None:
    answer = send(server, path, body, **headers)
    assert answer.status_code == 200
    assert answer.json()["version"] == answer.headers["x-rm-version"] == version


@pytest.mark.parametrize("path", ["/score", "/tokenize"])
@pytest.mark.parametrize(
    ("body", "headers", "status", "mentions"),
    [
        ({"version": "v000001"}, {"X_RM_Version": "v000002"}, 422, "v000002 in the headers"),
        ({"min_version": "v000001"}, {"X_RM_Min_Version": "v000002"}, 422, "min_version"),
        ({}, {"X_RM_Version": "V1"}, 422, "x-rm-version"),
        ({}, {"X_RM_Version": "v12"}, 422, "v12 is not a version name"),
        ({}, {"X_RM_Min_Version": "stable"}, 422, "x-rm-min-version"),
        ({"version": "stable"}, {}, 409, "there is no label 'stable'"),
        ({}, {"X_RM_Version": "v000009"}, 409, "v000003"),
        ({}, {"X_RM_Min_Version": "v000009"}, 409, "no version is at least v000009; v000002 is current"),
        (
            {"version": "v000001", "min_version": "v000002"},
            {},
            409,
            "v000001 is older than the min_version v000002",
        ),
    ],
)
def test_an_unsatisfiable_pin_is_refused(
    server: Served, path: str, body: dict[str, str], headers: dict[str, str], status: int, mentions: str
) -> None:
    answer = send(server, path, body, **headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert mentions in error["message"]
    if status == 409:
        assert error["code"] == "version_unavailable"
        assert error["details"]["current"] == "v000002"
        assert error["details"]["on_disk"] == ["v000001", "v000002", "v000003"]
        assert error["details"]["labels"] == {}


def test_raw_is_the_uncalibrated_reward_and_the_score_is_calibrated(server: Served, data_dir: Path) -> None:
    for version, folder, scale, shift in (("v000001", "m0", 1.0, 0.0), ("v000002", "m1", 0.25, -3.0)):
        offline = OfflineModel(data_dir / folder)
        expected = [offline.score(str(GROUP["prompt"]), response) for response in GROUP["responses"]]
        (group,) = send(server, "/score", {"version": version, "raw": True}).json()["groups"]
        assert group["raw"] == pytest.approx(expected, abs=TOLERANCE)
        assert group["scores"] == [scale * reward + shift for reward in group["raw"]]
        (plain,) = send(server, "/score", {"version": version}).json()["groups"]
        assert "raw" not in plain
        assert plain["scores"] == group["scores"]


def test_with_calibration_off_uncalibrated_rewards_are_served(
    data_dir: Path, shared_redis: RedisProcess
) -> None:
    offline = OfflineModel(data_dir / "m1")
    expected = [offline.score(str(GROUP["prompt"]), response) for response in GROUP["responses"]]
    with service_here(data_dir, shared_redis.url, METARM_CALIBRATION="false") as process:
        process.wait_ready()
        (group,) = send(process, "/score", {"version": "v000002", "raw": True}).json()["groups"]
    assert group["scores"] == group["raw"] == pytest.approx(expected, abs=TOLERANCE)


def test_a_withdrawn_version_satisfies_no_min_version_even_after_a_restart(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish_several(tmp_path, 2, current=2)
    for restarted in (False, True):
        with service_here(tmp_path, redis_process.url) as process:
            process.wait_ready()
            if not restarted:
                assert send(process, "/score", {"min_version": "v000002"}).json()["version"] == "v000002"
                process.http.post("/versions/v000001/activate")
            refused = send(process, "/score", {"min_version": "v000002"})
            assert refused.status_code == 409
            assert refused.json()["error"]["details"]["withdrawn"] == ["v000002"]
            assert send(process, "/score", {"version": "v000002"}).json()["version"] == "v000002"
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_ready()
        process.http.post("/versions/v000002/activate")
        assert send(process, "/score", {"min_version": "v000002"}).json()["version"] == "v000002"


@pytest.mark.slow
def test_a_running_request_finishes_on_its_captured_version_across_swaps(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    words = " ".join(CORPUS).split()
    texts = [" ".join(words[(n + k) % len(words)] for k in range(40)) + f" {n}" for n in range(4000)]
    body = {"groups": [{"prompt": "Which?", "responses": texts}]}
    publish_several(tmp_path, 3, current=1)
    answers: list[dict[str, Any]] = []

    def ask(url: str) -> None:
        answers.append(httpx.post(f"{url}/score", json=body, timeout=120).json())

    slowly = {"METARM_SCORE_WORKERS": "1", "METARM_BATCH_TOKENS": "8"}
    with service_here(tmp_path, redis_process.url, **slowly) as process:
        process.wait_ready()
        for name in ("v000002", "v000003"):  # loaded in advance, so that the swaps take no time
            assert send(process, "/score", {"version": name}).status_code == 200
        asking = threading.Thread(target=ask, args=(process.url,))
        asking.start()
        process.wait_until(lambda: "rm_queue_tokens 0.0" not in process.http.get("/metrics").text)
        for name in ("v000002", "v000003"):
            assert process.http.post(f"/versions/{name}/activate").json()["serving"] == name
        assert send(process, "/score", {}).json()["version"] == "v000003"
        assert not answers, "the request must outlast two swaps and a newer request"
        asking.join()
    (answer,) = answers
    assert answer["version"] == "v000001"
    offline = OfflineModel(tmp_path / "m0")
    for place in (0, 1999, 3999):
        expected = offline.score("Which?", texts[place])
        assert answer["groups"][0]["scores"][place] == pytest.approx(expected, abs=TOLERANCE)


def test_refused_versions_are_listed_counted_and_logged_while_the_current_version_serves(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish_several(tmp_path, 3, current=1)
    store = VersionStore(tmp_path / "versions")
    weights = store.path("v000002") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    tokenizer = store.path("v000003") / "tokenizer.json"
    kept = tokenizer.rename(tmp_path / "kept")
    before = time.time()
    with service_here(tmp_path, redis_process.url, METARM_POLL_MS="50") as process:
        process.wait_ready()
        for _ in range(5):  # its files do not change, so they are read once
            pinned = send(process, "/score", {"version": "v000003"})
            assert (pinned.status_code, pinned.json()["error"]["code"]) == (500, "invalid_version")
            assert "tokenizer.json" in pinned.json()["error"]["message"]
        store.activate("v000002")
        process.wait_until(lambda: process.http.get("/versions").json()["refused"] is not None)
        listed = process.http.get("/versions").json()
        assert listed["refused"]["name"] == "v000002"
        assert listed["serving"] == send(process, "/score", {}).json()["version"] == "v000001"
        assert [entry["name"] for entry in listed["refusals"]] == ["v000003", "v000002"]
        for entry, names in zip(listed["refusals"], ("tokenizer.json", "model.safetensors"), strict=True):
            assert names in entry["reason"]
            assert entry["times"] == 1
            assert before < entry["first"] == entry["last"] < time.time()
        assert 'rm_swap_total{result="refused"} 2.0' in process.http.get("/metrics").text
        store.activate("v000001")
        process.wait_until(lambda: process.http.get("/versions").json()["refused"] is None)
        after = process.http.get("/versions").json()
        assert len(after["refusals"]) == 2
        assert "version" not in {part["part"] for part in process.http.get("/ready").json()["degraded"]}
        kept.rename(tokenizer)
        assert send(process, "/score", {"version": "v000003"}).status_code == 200
    assert "refused v000002: v000002: model.safetensors" in process.output
    assert "refused v000003: v000003: its files" in process.output
