"""Answers without a loaded model, on a real server: each names the true state, in every route, through its
changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from metarm.shared.presence import TrainerPresence
from tests.processes import HttpThread, RedisProcess, service_here
from tests.store import publish
from tests.tiny import Kind

Checkpoint = Callable[[Kind], Path]
GROUPS = {"groups": [{"prompt": "a", "responses": ["b", "c"]}]}
PLACE = ("trainer", 60_000)  # its holder, and a lifetime far beyond the test, ms


@pytest.fixture
def server(tmp_path: Path, redis_process: RedisProcess) -> Iterator[HttpThread]:
    """On an empty store; no trainer runs."""
    with service_here(tmp_path / "data", redis_process.url, METARM_POLL_MS="20") as running:
        yield running


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def presence(redis_client: redis.Redis) -> TrainerPresence:
    return TrainerPresence(redis_client)


def error_of(server: HttpThread) -> dict[str, Any]:
    """The error of POST /score, or {}."""
    answer = server.http.post("/score", json=GROUPS)
    return {} if answer.status_code == 200 else answer.json()["error"]


def state_of(server: HttpThread) -> str | None:
    return cast("str | None", error_of(server).get("details", {}).get("state"))


def wait_for(server: HttpThread, state: str | None) -> dict[str, Any]:
    """Wait for a state, None that of a loaded model; the error of it."""
    server.wait_until(lambda: state_of(server) == state)
    return error_of(server)


def weights_of(data_dir: Path, name: str) -> Path:
    return data_dir / "versions" / name / "model.safetensors"


def damage(file: Path) -> bytes:
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    return content


def appear(made: Path, data_dir: Path) -> None:
    """Move a store that was made elsewhere to where the server reads it, at once."""
    data_dir.mkdir(parents=True, exist_ok=True)
    (made / "versions").rename(data_dir / "versions")


def test_every_route_tells_the_same_state(server: HttpThread) -> None:
    answers = {
        path: server.http.request(method, path, json=body)
        for method, path, body in [
            ("POST", "/score", GROUPS),
            ("POST", "/tokenize", GROUPS),
            ("POST", "/retrain", None),
            ("GET", "/ready", None),
        ]
    }
    assert {answer.status_code for answer in answers.values()} == {503}
    assert {answer.headers["retry-after"] for answer in answers.values()} == {"2"}
    (error,) = {str(answer.json()["error"]): answer.json()["error"] for answer in answers.values()}.values()
    assert error["code"] == "not_ready"
    assert error["details"] == {"state": "no_trainer"}
    assert "no trainer runs" in error["message"]
    degraded = server.http.get("/overview").json()["degraded"]
    assert [part["reason"] for part in degraded if part["part"] == "version"] == [error["message"]]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/score", {**GROUPS, "version": "v000001"}),
        ("POST", "/score", {**GROUPS, "version": "stable"}),
        ("POST", "/leases", {"label": "stable", "ttl_s": 10}),
        ("POST", "/leases", {"version": "v000001", "ttl_s": 10}),
        ("PUT", "/labels/stable", {"version": "v000001"}),
        ("POST", "/versions/v000001/activate", None),
    ],
)
def test_a_pin_to_a_version_that_is_not_there_tells_the_state_too(
    server: HttpThread, method: str, path: str, body: Any
) -> None:
    answer = server.http.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "version_unavailable")
    assert answer.json()["error"]["details"]["state"] == "no_trainer"


def test_the_state_follows_the_trainer(server: HttpThread, presence: TrainerPresence) -> None:
    holder, lifetime_ms = PLACE
    presence.hold(holder, {"state": "starting"}, lifetime_ms)
    assert "being made" in wait_for(server, "being_made")["message"]
    presence.hold(holder, {"state": "ready"}, lifetime_ms)
    assert "METARM_DATA_DIR" in wait_for(server, "store_empty")["message"]
    presence.hold(holder, {"state": "ready", "preferences_error": "pairs.jsonl is empty"}, lifetime_ms)
    server.wait_until(lambda: "pairs.jsonl is empty" in error_of(server)["message"])
    presence.release(holder)
    wait_for(server, "no_trainer")


def test_without_redis_it_is_unknown_whether_a_trainer_makes_a_version(
    server: HttpThread, redis_process: RedisProcess, presence: TrainerPresence
) -> None:
    presence.hold(PLACE[0], {"state": "starting"}, PLACE[1])
    wait_for(server, "being_made")
    redis_process.stop()
    assert "Redis does not answer" in wait_for(server, "trainer_unknown")["message"]
    redis_process.start()
    server.wait_until(lambda: state_of(server) in ("no_trainer", "being_made"))


def test_a_refused_version_is_named_with_its_reason_and_loads_once_it_is_repaired(
    server: HttpThread, tmp_path: Path, data_dir: Path, checkpoint: Checkpoint, presence: TrainerPresence
) -> None:
    presence.hold(PLACE[0], {"state": "starting"}, PLACE[1])  # it does not matter any more
    publish(tmp_path / "made", checkpoint("bert"))
    whole = damage(weights_of(tmp_path / "made", "v000001"))
    appear(tmp_path / "made", data_dir)
    error = wait_for(server, "refused")
    details = error["details"]
    assert details["version"] == "v000001"
    assert "model.safetensors" in details["reason"]
    assert 0 < details["retry_in_s"] <= 30
    assert details["reason"] in error["message"]
    weights_of(data_dir, "v000001").write_bytes(whole)
    wait_for(server, None)
    assert server.http.get("/ready").json()["version"] == "v000001"
    assert "version" not in {part["part"] for part in server.http.get("/overview").json()["degraded"]}


def test_after_a_refused_first_version_the_next_one_is_loaded(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint
) -> None:
    publish(tmp_path, checkpoint("bert"))
    damage(weights_of(tmp_path, "v000001"))
    with service_here(tmp_path, redis_process.url, METARM_POLL_MS="20") as server:
        assert error_of(server)["details"]["version"] == "v000001"
        publish(tmp_path, checkpoint("bert"))
        wait_for(server, None)
        assert server.http.get("/ready").json()["version"] == "v000002"
        (version,) = server.http.get("/versions").json()["refusals"]
        assert version["name"] == "v000001"


def test_versions_without_a_pointer_are_named(
    server: HttpThread, tmp_path: Path, data_dir: Path, checkpoint: Checkpoint
) -> None:
    publish(tmp_path / "made", checkpoint("bert"))
    (tmp_path / "made" / "versions" / "current").unlink()
    appear(tmp_path / "made", data_dir)
    assert wait_for(server, "no_pointer")["details"]["on_disk"] == ["v000001"]
    server.http.post("/versions/v000001/activate").raise_for_status()
    assert error_of(server) == {}


@pytest.mark.parametrize("broken", ["nonsense", "../v000001", "v1"])
def test_a_pointer_to_no_version_is_named_until_it_is_mended(
    server: HttpThread, data_dir: Path, checkpoint: Checkpoint, broken: str
) -> None:
    versions = data_dir / "versions"
    versions.mkdir(parents=True)
    (versions / "current").symlink_to(broken)
    assert repr(broken) in wait_for(server, "pointer_broken")["details"]["reason"]
    listed = server.http.get("/versions").json()
    assert listed["current"] is None
    assert repr(broken) in listed["refused"]["reason"]
    (versions / "current").unlink()
    wait_for(server, "no_trainer")
    publish(data_dir, checkpoint("bert"))
    wait_for(server, None)


def test_a_pointer_that_is_a_file_is_broken(server: HttpThread, data_dir: Path) -> None:
    (data_dir / "versions").mkdir(parents=True)
    (data_dir / "versions" / "current").write_text("v000001")
    assert "not a symbolic link" in wait_for(server, "pointer_broken")["message"]


def test_a_pointer_to_a_version_that_is_gone_is_broken(server: HttpThread, data_dir: Path) -> None:
    (data_dir / "versions").mkdir(parents=True)
    (data_dir / "versions" / "current").symlink_to("v000007")
    assert "names v000007, which is not there" in wait_for(server, "pointer_broken")["message"]


def test_a_pointer_that_disappears_under_a_serving_version_is_reported(
    server: HttpThread, data_dir: Path, checkpoint: Checkpoint
) -> None:
    def faults() -> list[str]:
        return [
            part["reason"] for part in server.http.get("/ready").json()["degraded"] if part["part"] == "version"
        ]

    publish(data_dir, checkpoint("bert"))
    wait_for(server, None)
    (data_dir / "versions" / "current").unlink()
    server.wait_until(lambda: any("is gone" in reason for reason in faults()))
    assert error_of(server) == {}, "the version in memory still answers"
    (data_dir / "versions" / "current").symlink_to("v000001")
    server.wait_until(lambda: faults() == [])


def test_a_store_that_cannot_be_read_is_named_until_it_can(server: HttpThread, data_dir: Path) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "versions").write_text("a file where the folder should be")
    assert "cannot be read" in wait_for(server, "store_unreadable")["message"]
    (data_dir / "versions").unlink()
    wait_for(server, "no_trainer")
