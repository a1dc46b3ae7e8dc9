"""The log of a real service: request ids, few lines for many refusals, only JSON, no secrets."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import HttpProcess, RedisProcess, service
from tests.store import publish
from tests.tiny import Kind

Checkpoint = Callable[[Kind], Path]

pytestmark = pytest.mark.slow
BODY = {"groups": [{"prompt": "What is seventeen plus twenty five?", "responses": ["It is forty two."]}]}
MISSING = {**BODY, "version": "v000099"}
SCORE_KEY, ADMIN_KEY, PASSWORD = "score-key-3141592653", "admin-key-2718281828", "pass word/1618"


def lines(process: HttpProcess) -> list[dict[str, Any]]:
    """The complete log lines. Each must be a JSON object."""
    return [json.loads(line) for line in process.output.splitlines(keepends=True) if line.endswith("\n")]


def lines_of(process: HttpProcess, field: str, value: str) -> list[dict[str, Any]]:
    """Wait for log lines with `field` equal to `value`. A request is logged after its answer is sent."""
    found: list[dict[str, Any]] = []

    def logged() -> bool:
        found[:] = [line for line in lines(process) if line.get(field) == value]
        return bool(found)

    process.wait_until(logged)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Iterator[HttpProcess]:
    data_dir = tmp_path_factory.mktemp("data")
    publish(data_dir, checkpoint("bert"))
    with (
        RedisProcess(tmp_path_factory.mktemp("redis")) as redis,
        service(data_dir, redis.url, METARM_LOG_FORMAT="json") as process,
    ):
        process.wait_ready()
        yield process


def test_a_response_carries_the_callers_request_id_or_a_generated_one(server: HttpProcess) -> None:
    mine = server.http.post("/score", json=BODY, headers={"X-Request-ID": "step-17/worker:3"})
    assert mine.headers["X-Request-ID"] == "step-17/worker:3"
    made = [server.http.post("/score", json=BODY).headers["X-Request-ID"] for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(request_id) == 32 for request_id in made)


@pytest.mark.parametrize("sent", ["", "two words", 'a"quote', "x" * 129, "é", "tab\there"])
def test_an_invalid_request_id_is_replaced_by_a_generated_one(server: HttpProcess, sent: str) -> None:
    answer = server.http.post("/score", json=BODY, headers=[(b"X-Request-ID", sent.encode("latin-1"))])
    assert answer.status_code == 200
    assert answer.headers["X-Request-ID"] != sent
    assert len(answer.headers["X-Request-ID"]) == 32


def test_a_refused_request_is_logged_with_route_status_duration_error_and_request_id(
    server: HttpProcess,
) -> None:
    answer = server.http.post("/score", json=MISSING, headers={"X-Request-ID": "refused-1"})
    assert answer.status_code == 409
    (line,) = lines_of(server, "request_id", "refused-1")
    assert line["level"] == "warning"
    assert line["process"] == "service"
    assert (line["route"], line["status"], line["error"]) == ("/score", 409, "version_unavailable")
    assert 0 < line["duration_s"] < 60


def test_answered_requests_are_not_logged_at_info_and_repeated_refusals_are_limited(
    server: HttpProcess,
) -> None:
    before = len(lines(server))
    for _ in range(100):
        assert server.http.post("/score", json=BODY).status_code == 200
    refused = 300
    for _ in range(refused):
        assert server.http.get("/versions/v000077").status_code == 404
    assert server.http.post("/score", json={}, headers={"X-Request-ID": "the-last"}).status_code == 422
    lines_of(server, "request_id", "the-last")  # logged after all earlier lines
    new_lines = lines(server)[before:]
    of_requests = [line.get("route") for line in new_lines if line.keys() & {"request_id", "route"}]
    assert of_requests.count("/score") == 1
    assert set(of_requests) == {"/score", "/versions/{version}"}
    assert len(new_lines) < refused / 10


def test_libraries_and_the_web_server_also_log_json(server: HttpProcess) -> None:
    found = lines(server)
    assert {"uvicorn.error", "service.versions.swapper"} <= {line["logger"] for line in found}
    assert all({"timestamp", "level", "logger", "process", "message"} <= line.keys() for line in found)
    (serving,) = [line for line in found if line["logger"] == "service.versions.swapper"]
    assert serving["version"] == "v000001"


def test_keys_and_passwords_never_appear_in_the_log_or_in_an_error_body(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with redis_process.client() as client:
        client.config_set("requirepass", PASSWORD)
    redis_url = redis_process.url.replace("unix://", "unix://:pass%20word%2F1618@")
    keys = {"METARM_SCORE_KEYS": json.dumps([SCORE_KEY]), "METARM_ADMIN_KEYS": json.dumps([ADMIN_KEY])}
    answers = []
    with service(tmp_path, redis_url, METARM_LOG_LEVEL="DEBUG", METARM_LOG_FORMAT="json", **keys) as process:
        process.wait_ready()
        for key in (SCORE_KEY, ADMIN_KEY, f"{SCORE_KEY}x"):
            header = {"Authorization": f"Bearer {key}"}
            answers += [process.http.post("/score", json=body, headers=header) for body in (BODY, MISSING, {})]
            answers += [
                process.http.post("/retrain", headers=header),
                process.http.get("/metrics", headers=header),
            ]
        redis_process.kill(signal.SIGKILL)
        redis_process.wait()
        answers.append(process.http.post("/retrain", headers={"Authorization": f"Bearer {ADMIN_KEY}"}))
        process.wait_until(lambda: "sample-writer failed" in process.output)
    assert {answer.status_code for answer in answers} >= {200, 401, 409, 422, 503}
    text = process.output + "".join(answer.text for answer in answers)
    for secret in (SCORE_KEY, ADMIN_KEY, PASSWORD, "pass%20word%2F1618"):
        assert secret not in text
    assert any(line["level"] == "debug" and line.get("route") == "/score" for line in lines(process))
