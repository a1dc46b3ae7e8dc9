"""Many clients and many swaps: no request fails, and each answer is from the version it names."""

from __future__ import annotations

from pathlib import Path

from metarm.store.versions import VersionStore
from tests.hammer import Hammer, assert_scored_by_the_version_named, loads_of
from tests.processes import HttpProcess, RedisProcess, service
from tests.store import publish_several

VERSIONS, SWAPS, CLIENTS, KEPT = 5, 20, 16, 2
GROUP = {"prompt": "Which is faster?", "responses": ["The first.", "The second."]}


def loaded(process: HttpProcess) -> set[str]:
    entries = process.http.get("/versions").json()["versions"]
    return {entry["name"] for entry in entries if entry["loaded"]}


def lease(process: HttpProcess, version: str, ttl_s: float) -> str:
    made = process.http.post("/leases", json={"version": version, "ttl_s": ttl_s})
    assert made.status_code == 201, made.text
    return str(made.json()["lease"])


def load_others(process: HttpProcess, names: list[str]) -> None:
    """Load `names`, more than the server keeps in memory."""
    for name in names:
        body = {"groups": [GROUP], "version": name, "log": False}
        assert process.http.post("/score", json=body).status_code == 200


def test_unpinned_pinned_and_leased_clients_score_through_twenty_swaps_without_a_failure(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish_several(tmp_path, VERSIONS, current=1)
    store = VersionStore(tmp_path / "versions")
    names = store.names()
    # versions pinned without a lease are loaded from disk repeatedly
    settings = {"METARM_SCORE_CACHE_ENTRIES": "0", "METARM_KEEP_LOADED": str(KEPT)}
    with service(tmp_path, redis_process.url, **settings) as process:
        process.wait_ready()
        with Hammer([process.url], CLIENTS, pins=names, leases=True) as hammer:
            hammer.wait_for_more(50)
            for number in range(1, SWAPS + 1):
                name = names[number % VERSIONS]
                done = process.http.post(f"/versions/{name}/activate")
                assert done.json() == {"current": name, "serving": name}
                hammer.wait_for_more(20)
            process.wait_until(lambda: len(hammer.lease_uses) >= 6)
            # every version is loaded from disk repeatedly, but none while it is leased
            process.wait_until(lambda: min(loads_of(process.http, process.url, name) for name in names) >= 3)
        metrics = process.http.get("/metrics").text
        assert {use.client for use in hammer.lease_uses} == {3, 9, 15}
        assert [use for use in hammer.lease_uses if use.loads_after != use.loads_before] == []

        # versions whose leases are released or expired are dropped, and a leased version stays
        assert process.http.get("/leases").json() == []
        current, released, expiring, held, other = names[SWAPS % VERSIONS :] + names[: SWAPS % VERSIONS]
        ends = lease(process, released, 60)
        lease(process, held, 60)
        load_others(process, [other, expiring])
        assert loaded(process) == {current, released, held}
        assert process.http.delete(f"/leases/{ends}").status_code == 200
        lease(process, expiring, 1)
        process.wait_until(lambda: len(process.http.get("/leases").json()) == 1)
        load_others(process, [released, expiring, other])
        process.wait_until(lambda: loaded(process) == {current, held})
    assert hammer.failures == []
    assert f'rm_swap_total{{result="swapped"}} {SWAPS + 1}.0' in metrics
    assert {answer.version for answer in hammer.answers if answer.pinned is None} == set(names)
    assert {answer.version for answer in hammer.answers if answer.pinned is not None} == set(names)
    assert_scored_by_the_version_named(hammer, store)
