"""Errors after a version was captured name it: a real server with versions that fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from metarm.shared.keys import TRAINER
from tests.processes import RedisProcess, Served, service_here, wait_until
from tests.store import publish
from tests.tiny import LAST_WORD, make_checkpoint, poisoned, without_last_word

SOUND, NON_FINITE, RAISES, CHAT = (f"v00000{number}" for number in range(1, 5))
POISON = "pencils"
WIZARD = [{"role": "wizard", "content": "Abracadabra"}]  # the tiny chat template refuses the role


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisProcess) -> Iterator[Served]:
    """A server with one sound version, which is current, and three versions that fail for some texts."""
    folder = tmp_path_factory.mktemp("data")
    for checkpoint in (
        make_checkpoint(folder / "sound", "bert", seed=1),
        poisoned(folder / "poisoned", POISON),
        without_last_word(folder / "raises"),
        make_checkpoint(folder / "chat", "llama-chat"),
    ):
        publish(folder, checkpoint, activate=False)
    limits = {"METARM_MAX_RESPONSES": "30", "METARM_KEEP_LOADED": "4"}
    with service_here(folder, shared_redis.url, **limits) as process:
        process.wait_ready()
        yield process


def group(prompt: Any = "What is it?", responses: list[str] | None = None) -> dict[str, Any]:
    return {"prompt": prompt, "responses": responses or ["forty two"]}


@pytest.mark.parametrize(
    ("path", "version", "asked", "status", "code"),
    [
        ("/score", NON_FINITE, group(responses=[POISON]), 500, "non_finite_score"),
        ("/score", RAISES, group(responses=[LAST_WORD]), 500, "internal_error"),
        ("/score", CHAT, group(WIZARD), 422, "invalid_request"),
        ("/tokenize", CHAT, group(WIZARD), 422, "invalid_request"),
    ],
)
def test_an_error_after_the_version_capture_names_the_version_and_other_requests_succeed(
    server: Served, path: str, version: str, asked: dict[str, Any], status: int, code: str
) -> None:
    answer = server.http.post(path, json={"groups": [asked], "version": version})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-rm-version"] == version
    assert server.http.post(path, json={"groups": [group()], "version": version}).status_code == 200


@pytest.mark.parametrize("place", [0, 2, 26])
def test_a_group_that_the_template_rejects_is_named(server: Served, place: int) -> None:
    groups = [group("x" * 5000, ["a"]) for _ in range(place)]  # several portions of text
    asked = {"groups": [*groups, group(WIZARD, ["a"]), group()], "version": CHAT}
    for path in ("/tokenize", "/score"):
        error = server.http.post(path, json=asked).json()["error"]
        assert error["details"] == {"group": place}
        assert error["message"].startswith(f"group {place}: ")


@pytest.mark.parametrize(("sizes", "details"), [([1, 31], {"group": 1}), ([20, 11], {})])
def test_a_group_of_too_many_responses_is_named(
    server: Served, sizes: list[int], details: dict[str, int]
) -> None:
    groups = [group(responses=["x"] * size) for size in sizes]
    error = server.http.post("/score", json={"groups": groups}).json()["error"]
    limit = {"limit": 30, "setting": "METARM_MAX_RESPONSES", "responses": sum(sizes)}
    assert error["details"] == {**limit, **details}


@pytest.mark.parametrize(
    ("method", "path", "status", "mentions"),
    [
        ("GET", "/Score", 404, "there is no path '/Score'"),
        ("GET", "/" + "x" * 5000, 404, "there is no path '/xxx"),
        ("GET", "/score", 405, "/score does not take GET: send POST"),
        ("DELETE", "/versions", 405, "/versions does not take DELETE: send GET, HEAD"),
    ],
)
def test_a_wrong_path_or_method_says_what_is_right(
    server: Served, method: str, path: str, status: int, mentions: str
) -> None:
    answer = server.http.request(method, path)
    assert answer.status_code == status
    assert mentions in answer.json()["error"]["message"]
    assert len(answer.content) < 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/score?version=v000001"),
        ("POST", "/tokenize?raw=true"),
        ("GET", "/versions?cnt=5"),
        ("GET", "/retrain?count=5&cnt=5"),
        ("GET", "/drift?&version"),
        ("GET", "/metrics?x=1"),
        ("DELETE", "/labels/stable?force=1"),
    ],
)
def test_a_query_parameter_that_would_be_ignored_is_refused(server: Served, method: str, path: str) -> None:
    body = {"groups": [group()]} if method == "POST" else None
    answer = server.http.request(method, path, json=body)
    if path.startswith("/metrics"):
        assert answer.status_code == 200, "scrapers may send some"
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "invalid_request")
    assert error["details"]["fields"][0]["message"] == "Unknown query parameter"
    assert error["details"]["fields"][0]["field"].startswith("query.")


def test_health_paths_ignore_their_query(server: Served) -> None:
    assert server.http.get("/health?verbose").status_code == 200
    assert server.http.get("/ready?x=1&y").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"groups": []}, 422),
        ({"groups": [group(responses=["x"] * 31)]}, 413),
        ({"groups": [group()], "version": "v000009"}, 409),
        ({"groups": [group()], "min_version": "v000009"}, 409),
    ],
)
def test_an_error_before_the_version_capture_names_no_version(
    server: Served, body: dict[str, Any], status: int
) -> None:
    answer = server.http.post("/score", json=body)
    assert answer.status_code == status
    assert "x-rm-version" not in answer.headers


def test_a_foreign_value_at_the_trainers_place_hides_neither_readiness_nor_metrics(
    server: Served, shared_redis: RedisProcess
) -> None:
    with contextlib.closing(redis.Redis.from_url(shared_redis.url)) as client:
        client.set(TRAINER, "[1]")
        try:
            wait_until(lambda: "is no trainer's" in server.http.get("/ready").text)
            assert server.http.get("/ready").status_code == 200
            assert "rm_trainer_up 0.0" in server.http.get("/metrics").text
            assert server.http.post("/retrain").status_code == 503
        finally:
            client.delete(TRAINER)
