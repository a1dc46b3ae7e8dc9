"""Errors after a version was captured name it: a real server with versions that fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.processes import RedisProcess, Served, service_here
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
