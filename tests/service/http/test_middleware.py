"""HTTP as proxies and clients expect it: HEAD, trailing slashes, and the headers of refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import RedisProcess, Served, service_here
from tests.store import publish
from tests.tiny import Kind

KEY = {"Authorization": "Bearer score-key"}
BODY = {"groups": [{"prompt": "What is it?", "responses": ["forty two"]}]}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[Kind], Path], shared_redis: RedisProcess
) -> Iterator[Served]:
    data_dir = tmp_path_factory.mktemp("data")
    publish(data_dir, checkpoint("bert"))
    with service_here(data_dir, shared_redis.url, METARM_SCORE_KEYS='["score-key"]') as process:
        process.wait_ready()
        yield process


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/versions", "/overview", "/drift", "/", "/docs", "/openapi.json"]
)
def test_head_is_answered_as_get_without_a_body(server: Served, path: str) -> None:
    got = server.http.get(path, headers=KEY)
    head = server.http.head(path, headers=KEY)
    assert (head.status_code, head.headers["content-type"]) == (got.status_code, got.headers["content-type"])
    assert int(head.headers["content-length"]) > 0
    assert head.content == b""


def test_head_needs_the_key_that_get_needs(server: Served) -> None:
    assert server.http.head("/versions").status_code == 401


@pytest.mark.parametrize("path", ["/score/", "/score//"])
def test_a_path_with_a_trailing_slash_is_the_same_path(server: Served, path: str) -> None:
    assert server.http.post(path, json=BODY, headers=KEY).status_code == 200
    assert server.http.get("/health/").status_code == 200
    series = 'rm_requests_total{route="/score",status="200"}'
    assert series in server.http.get("/metrics/", headers=KEY).text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/score", "POST"),
        ("PATCH", "/retrain", "GET, HEAD, POST"),
        ("POST", "/labels/stable", "DELETE, PUT"),
        ("DELETE", "/health", "GET, HEAD"),
        ("HEAD", "/score", "POST"),
    ],
)
def test_a_wrong_method_is_answered_with_the_methods_of_the_path(
    server: Served, method: str, path: str, allowed: str
) -> None:
    answer = server.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [({}, "Bearer"), ({"Authorization": "Bearer no"}, 'Bearer error="invalid_token"')],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/versions"), ("POST", "/score")])
def test_a_missing_or_wrong_key_is_answered_with_a_challenge(
    server: Served, method: str, path: str, headers: dict[str, str], challenge: str
) -> None:
    answer = server.http.request(method, path, headers=headers, json=BODY if method == "POST" else None)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, challenge)


def test_refusals_before_the_handler_are_counted_under_their_route(server: Served) -> None:
    server.http.post("/tokenize", json=BODY)
    server.http.post("/tokenize", content=b"{", headers=KEY)
    server.http.post("/tokenize", content=b"{", headers={**KEY, "content-type": "text/plain"})
    metrics = server.http.get("/metrics", headers=KEY).text
    for status in (401, 400, 415):
        assert f'rm_requests_total{{route="/tokenize",status="{status}"}} 1.0' in metrics
