"""Many clients, many swaps: no request fails, and each answer is of the version it names."""

from __future__ import annotations

from pathlib import Path

from metarm.versions import VersionStore
from tests.hammer import Hammer, assert_scored_by_the_version_named
from tests.processes import RedisProcess, service
from tests.store import publish
from tests.tiny import make_checkpoint

VERSIONS, SWAPS, CLIENTS = 5, 20, 16


def test_sixteen_clients_a_third_of_them_pinned_score_through_twenty_swaps_without_a_failure(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    names = [
        publish(tmp_path, make_checkpoint(tmp_path / f"m{seed}", "bert", seed=seed)) for seed in range(VERSIONS)
    ]
    store = VersionStore(tmp_path / "versions")
    store.activate(names[0])
    settings = {"METARM_SCORE_CACHE_ENTRIES": "0", "METARM_KEEP_LOADED": "3"}  # pins bring evicted ones back
    with service(tmp_path, redis_process.url, **settings) as process:
        process.wait_ready()
        with Hammer([process.url], CLIENTS, pins=names) as hammer:
            hammer.wait_for_more(50)
            for number in range(1, SWAPS + 1):
                name = names[number % VERSIONS]
                done = process.http.post(f"/versions/{name}/activate")
                assert done.json() == {"current": name, "serving": name}
                hammer.wait_for_more(20)
        metrics = process.http.get("/metrics").text
    assert hammer.failures == []
    assert f'rm_swap_total{{result="swapped"}} {SWAPS + 1}.0' in metrics
    assert {answer.version for answer in hammer.answers if answer.pinned is None} == set(names)
    assert {answer.version for answer in hammer.answers if answer.pinned is not None} == set(names)
    assert_scored_by_the_version_named(hammer, store)
