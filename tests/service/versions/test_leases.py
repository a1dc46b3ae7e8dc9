"""Leases over HTTP, with two servers on one Redis and one store."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metarm import ClientError, RewardClient
from tests.processes import PairHere, RedisProcess, Served, service_here
from tests.store import publish_several

GROUP = {"prompt": "What is seventeen plus twenty five?", "responses": ["It is forty two.", "The first train."]}
SETTINGS = {
    "METARM_POLL_MS": "50",
    "METARM_KEEP_LOADED": "2",
    "METARM_MAX_LEASES": "4",
    "METARM_MAX_LEASED_VERSIONS": "2",
    "METARM_MAX_LEASE_S": "600",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five versions. The last one is current."""
    return publish_several(tmp_path_factory.mktemp("data"), 5, current=5)


@pytest.fixture(autouse=True)
def _release_leases(servers: PairHere) -> Iterator[None]:
    yield
    for lease in servers[0].http.get("/leases").json():
        servers[0].http.delete(f"/leases/{lease['lease']}")
    assert servers[1].http.get("/leases").json() == []


def loaded(process: Served) -> set[str]:
    entries = process.http.get("/versions").json()["versions"]
    return {entry["name"] for entry in entries if entry["loaded"]}


def load_others(process: Served, *versions: str) -> None:
    """Load `versions`, more than the server keeps in memory."""
    for version in versions:
        body = {"groups": [GROUP], "version": version, "log": False}
        assert process.http.post("/score", json=body).status_code == 200


def lease(process: Served, ttl_s: float = 60.0, **named: str) -> dict[str, Any]:
    answer = process.http.post("/leases", json={"ttl_s": ttl_s, **named})
    assert answer.status_code == 201, answer.text
    state: dict[str, Any] = answer.json()
    return state


def test_a_leased_version_stays_in_memory_on_every_server_of_one_redis(
    servers: PairHere,
) -> None:
    one, other = servers
    before = time.time()
    made = lease(one, version="v000001")
    assert made["version"] == "v000001"
    assert before + 59 < made["expires"] < time.time() + 60.5
    assert "v000001" in loaded(one)  # the version is loaded before the lease is answered
    other.wait_until(lambda: "v000001" in loaded(other))
    for process in servers:
        load_others(process, "v000002", "v000003", "v000004")
        assert loaded(process) == {"v000001", "v000005"}  # the other versions were dropped
        listed = process.http.get("/leases").json()
        assert [entry["lease"] for entry in listed] == [made["lease"]]
        assert "rm_leases 1.0" in process.http.get("/metrics").text
        assert "rm_versions_loaded 2.0" in process.http.get("/metrics").text


def test_a_lease_released_on_one_server_ends_on_the_other(
    servers: PairHere,
) -> None:
    one, other = servers
    made = lease(one, version="v000001")
    other.wait_until(lambda: "v000001" in loaded(other))
    assert other.http.delete(f"/leases/{made['lease']}").json() == {"lease": made["lease"]}
    one.wait_until(lambda: "rm_leases 0.0" in one.http.get("/metrics").text)
    for process in servers:
        load_others(process, "v000002", "v000003")
        assert "v000001" not in loaded(process)
        again = process.http.delete(f"/leases/{made['lease']}")
        assert (again.status_code, again.json()["error"]["code"]) == (404, "unknown_lease")


def test_an_expired_lease_is_unknown_and_its_version_may_be_dropped(
    servers: PairHere,
) -> None:
    made = lease(servers[0], 1.0, version="v000002")
    time.sleep(1.1)
    for process in servers:
        assert process.http.get("/leases").json() == []
        renewed = process.http.post(f"/leases/{made['lease']}/renew", json={"ttl_s": 60})
        assert (renewed.status_code, renewed.json()["error"]["code"]) == (404, "unknown_lease")
        load_others(process, "v000003", "v000004")
        assert "v000002" not in loaded(process)


def test_a_lease_can_be_renewed_on_any_server(servers: PairHere) -> None:
    one, other = servers
    made = lease(one, 4.0, version="v000001")
    renewed = other.http.post(f"/leases/{made['lease']}/renew", json={"ttl_s": 60})
    assert renewed.status_code == 200
    assert renewed.json()["version"] == "v000001"
    assert renewed.json()["expires"] > made["expires"] + 50
    time.sleep(4.1)
    load_others(one, "v000002", "v000003")
    assert "v000001" in loaded(one)


def test_a_lease_of_a_label_keeps_the_version_that_the_label_named_at_its_creation(
    servers: PairHere,
) -> None:
    one, _ = servers
    for target in ("v000001", "v000002"):
        assert one.http.put("/labels/trusted", json={"version": target}).status_code == 200
        if target == "v000001":
            made = lease(one, label="trusted")
    assert made["version"] == "v000001"
    assert one.http.delete("/labels/trusted").status_code == 200
    load_others(one, "v000003", "v000004")
    assert "v000001" in loaded(one)
    assert "v000002" not in loaded(one)


def test_a_lease_without_a_name_is_of_the_current_version_and_stays_with_it(servers: PairHere) -> None:
    one, other = servers
    made = lease(one)
    assert made["version"] == "v000005"
    assert one.http.post("/versions/v000004/activate").json()["current"] == "v000004"
    assert [entry["version"] for entry in other.http.get("/leases").json()] == ["v000005"]
    assert lease(other)["version"] == "v000004"
    with RewardClient(one.url) as client, client.lease(ttl_s=60) as held:
        assert held.version == client.score([GROUP], log=False).version == "v000004"
    assert one.http.post("/versions/v000005/activate").json()["current"] == "v000005"


def test_the_documented_lease_works_on_a_fresh_server(servers: PairHere) -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    (body,) = re.findall(r"localhost:8080/leases .* -d '(.*)'", page)
    assert lease(**{"process": servers[0], **json.loads(body), "ttl_s": 60})["version"] == "v000005"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"ttl_s": 60, "version": "v000001", "label": "stable"}, 422, "invalid_request"),
        ({"version": "v000001"}, 422, "invalid_request"),
        ({"version": "v000001", "ttl_s": 0}, 422, "invalid_request"),
        ({"version": "v000001", "ttl_s": 601}, 422, "invalid_request"),
        ({"version": "v000009", "ttl_s": 60}, 409, "version_unavailable"),
        ({"label": "nothing", "ttl_s": 60}, 409, "version_unavailable"),
    ],
)
def test_an_invalid_lease_request_is_refused(
    servers: PairHere, body: dict[str, Any], status: int, code: str
) -> None:
    answer = servers[0].http.post("/leases", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert servers[0].http.get("/leases").json() == []


def test_the_lease_limits_apply_across_all_servers(servers: PairHere) -> None:
    one, other = servers
    lease(one, version="v000001")
    lease(other, version="v000002")
    third = one.http.post("/leases", json={"version": "v000003", "ttl_s": 60})
    assert (third.status_code, third.json()["error"]["code"]) == (409, "too_many_leases")
    lease(one, version="v000002")
    lease(other, version="v000001")
    fifth = one.http.post("/leases", json={"version": "v000001", "ttl_s": 60})
    assert (fifth.status_code, fifth.json()["error"]["code"]) == (409, "too_many_leases")


def test_the_client_pins_requests_inside_a_lease_and_releases_it(
    servers: PairHere,
) -> None:
    one, _ = servers
    with RewardClient(one.url) as client:
        with client.lease(version="v000001", ttl_s=60) as held:
            assert client.score([GROUP]).version == held.version == "v000001"
            assert client.score([GROUP], version="v000003").version == "v000003"
            before = held.expires
            held.renew(600)
            assert held.expires > before + 500
            assert [entry["lease"] for entry in client.leases()] == [held.id]
        assert client.score([GROUP]).version == "v000005"
        assert client.leases() == []
        held.release()  # already released: no effect
        with pytest.raises(ClientError) as refused:
            held.renew(60)
        assert refused.value.error_code == "unknown_lease"


def test_a_lease_survives_a_redis_outage_and_is_restored_after_redis_loses_its_data(
    data_dir: Path, tmp_path: Path
) -> None:
    with RedisProcess(tmp_path / "redis") as log, service_here(data_dir, log.url, **SETTINGS) as process:
        process.wait_ready()
        made = lease(process, 30.0, version="v000001")
        log.kill(signal.SIGKILL)
        log.wait()
        time.sleep(1.2)
        load_others(process, "v000002", "v000003", "v000004")
        assert "v000001" in loaded(process)
        assert [entry["lease"] for entry in process.http.get("/leases").json()] == [made["lease"]]
        refused = process.http.post("/leases", json={"version": "v000002", "ttl_s": 60})
        assert refused.status_code == 503
        shutil.rmtree(tmp_path / "redis" / "appendonlydir")
        log.start()
        with log.client() as client:
            process.wait_until(lambda: bool(client.exists("metarm:leases")))
        renewed = process.http.post(f"/leases/{made['lease']}/renew", json={"ttl_s": 60})
        assert renewed.status_code == 200


def test_a_restarted_server_loads_the_leased_versions(data_dir: Path, shared_redis: RedisProcess) -> None:
    with service_here(data_dir, shared_redis.url, **SETTINGS) as process:
        process.wait_ready()
        lease(process, 600.0, version="v000002")
    with service_here(data_dir, shared_redis.url, **SETTINGS) as process:
        process.wait_ready()
        process.wait_until(lambda: "v000002" in loaded(process))
