"""A store of hundreds of versions over HTTP: answers and errors name the newest, and say how many there are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from metarm.store.versions import VersionStore
from tests.processes import HttpThread, RedisProcess, service_here
from tests.store import publish
from tests.tiny import Kind

MANY = 300  # versions; the first is current


def name_of(number: int) -> str:
    return f"v{number:06d}"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[Kind], Path], shared_redis: RedisProcess
) -> Iterator[HttpThread]:
    """One version that can be served, and MANY - 1 that can only be listed: published, rejected and pruned."""
    data_dir = tmp_path_factory.mktemp("many")
    publish(data_dir, checkpoint("bert"))
    root = data_dir / "versions"
    (root / "pruned").mkdir()
    for number in range(2, MANY + 1):
        manifest = orjson.dumps({"name": name_of(number), "parent": "v000001"})
        if number % 3 == 0:
            (root / name_of(number)).mkdir()
            (root / name_of(number) / "manifest.json").write_bytes(manifest)
        else:
            (root / ("rejected", "pruned")[number % 3 - 1] / f"{name_of(number)}.json").write_bytes(manifest)
    with service_here(data_dir, shared_redis.url) as server:
        server.wait_ready()
        yield server
    shutil.rmtree(data_dir)


@pytest.mark.parametrize(("query", "newest"), [("", 100), ("?count=7", 7), ("?count=1000", MANY)])
def test_versions_lists_the_newest_and_always_the_one_that_serves(
    server: HttpThread, query: str, newest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = VersionStore.manifest

    def counted(store: VersionStore, name: str) -> dict[str, object]:
        reads.append(name)
        return read(store, name)

    monkeypatch.setattr(VersionStore, "manifest", counted)
    body = server.http.get(f"/versions{query}").json()
    listed = [entry["name"] for entry in body["versions"]]
    numbers = dict.fromkeys([1, *range(MANY - newest + 1, MANY + 1)])
    assert listed == [name_of(number) for number in numbers]
    assert (body["current"], body["serving"], body["total"]) == ("v000001", "v000001", MANY)
    assert sorted(reads) == listed
    assert {entry["status"] for entry in body["versions"]} == {"published", "rejected", "pruned"}


def test_older_versions_are_listed_page_by_page(server: HttpThread) -> None:
    seen: list[str] = []
    while page := server.http.get(f"/versions?count=80&before={seen[0] if seen else 'v999999'}").json()[
        "versions"
    ]:
        seen = [entry["name"] for entry in page] + seen
    assert seen == [name_of(number) for number in range(1, MANY + 1)]


@pytest.mark.parametrize("query", ["count=0", "count=1001", "before=latest", "count=many"])
def test_an_invalid_page_is_refused(server: HttpThread, query: str) -> None:
    answer = server.http.get(f"/versions?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


def test_errors_name_the_newest_versions_and_how_many_there_are(server: HttpThread) -> None:
    published = [1, *range(3, MANY + 1, 3)]
    newest = [name_of(number) for number in published[-20:]]
    group = {"prompt": "What?", "responses": ["It is."]}
    pinned = server.http.post("/score", json={"groups": [group], "version": "v000999"}).json()["error"]
    assert pinned["details"]["on_disk"] == newest
    assert pinned["details"]["on_disk_count"] == len(published)
    assert pinned["message"].endswith(f"{name_of(MANY)} (the newest of {len(published)})")
    unknown = server.http.get("/versions/v000999").json()["error"]
    assert unknown["details"] == {"known": newest, "known_count": len(published)}
