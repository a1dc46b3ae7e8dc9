"""Which versions retention keeps and which it prunes, with a real store and real leases."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from metarm.errors import InvalidVersionError, UnknownVersionError
from metarm.shared.keys import LEASES
from metarm.shared.leases import leased_versions
from metarm.store.manifest import MANIFEST
from metarm.store.retention import Retention, reasons_to_keep
from metarm.store.versions import Label, VersionStore

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256))}


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    store = VersionStore(tmp_path / "versions")
    store.prepare()
    return store


def publish(store: VersionStore, accuracy: float | None = None, **manifest: Any) -> str:
    name, folder = store.stage()
    for file, data in FILES.items():
        (folder / file).write_bytes(data)
    figures = {} if accuracy is None else {"held_out_accuracy": accuracy}
    given = {"parent": store.current(), "verdict": {"accepted": True, "figures": figures}, **manifest}
    store.publish(name, given)
    return name


def pruned_names(
    store: VersionStore, keep: int, leased: dict[str, int] | None = None, grace_s: float = 0
) -> list[str]:
    reasons = reasons_to_keep(store, leased or {}, keep, grace_s)
    return [name for name, reason in reasons.items() if reason is None]


def lease(client: redis.Redis, lease_id: str, version: str, lasts_s: float = 60) -> None:
    """Write a lease as the service does."""
    client.hset(LEASES, lease_id, f"{int(1000 * (time.time() + lasts_s))} {version}")


def test_the_newest_versions_are_kept_and_older_ones_are_pruned(store: VersionStore) -> None:
    names = [publish(store) for _ in range(6)]
    assert pruned_names(store, 10) == []
    assert pruned_names(store, 3) == names[:3]
    assert pruned_names(store, 1) == names[:4]  # the parent of the current version is kept
    assert reasons_to_keep(store, {}, 1, 0)[names[4]] == "the parent of the current version"


def test_the_current_version_and_its_parent_are_kept_at_any_age(store: VersionStore) -> None:
    names = [publish(store) for _ in range(6)]
    store.activate(names[1])
    assert pruned_names(store, 1) == [names[2], names[3], names[4]]
    assert reasons_to_keep(store, {}, 1, 0)[names[1]] == "current"


def test_labelled_and_leased_versions_are_kept(store: VersionStore) -> None:
    names = [publish(store) for _ in range(6)]
    store.set_label("stable", Label(names[0]))
    assert pruned_names(store, 2, {names[2]: 1}) == [names[1], names[3]]


def test_the_best_version_is_the_best_on_the_pairs_of_the_current_one(store: VersionStore) -> None:
    old, new = (
        {"source": "p.jsonl", "sha256": digest, "held_out_share": 0.2, "held_out_pairs": 50} for digest in "ab"
    )
    publish(store, 0.99, preferences=old)
    best = publish(store, 0.8, preferences=new)
    for _ in range(3):
        publish(store, 0.7, preferences={**new, "source": "moved.jsonl"})
    kept = {name: why for name, why in reasons_to_keep(store, {}, 1, 0).items() if why}
    assert kept[best] == "the best on its held-out pairs"
    assert "v000001" not in kept


def test_accuracies_of_earlier_releases_are_told_apart_by_the_digest_of_their_file(store: VersionStore) -> None:
    better = publish(store, 0.9, preferences={"source": "p", "sha256": "aa", "pairs": 9})
    best = publish(store, 0.7, preferences={"source": "p", "sha256": "bb", "pairs": 9})
    for _ in range(2):
        publish(store, 0.6, preferences={"source": "p", "sha256": "bb", "pairs": 9})
    reasons = reasons_to_keep(store, {}, 1, 0)
    assert (reasons[better], reasons[best]) == (None, "the best on its held-out pairs")


def test_the_version_with_the_best_held_out_accuracy_is_kept_and_ties_go_to_the_newest(
    store: VersionStore,
) -> None:
    names = [publish(store, accuracy) for accuracy in (0.6, 0.8, 0.8, 0.7, None, 0.5)]
    assert pruned_names(store, 1) == [names[0], names[1], names[3]]


def test_the_accuracy_of_a_first_version_is_compared_too(store: VersionStore) -> None:
    first = publish(store, metrics={"held_out_accuracy": 0.9}, verdict=None)
    for _ in range(3):
        publish(store, 0.7)
    assert reasons_to_keep(store, {}, 1, 0)[first] == "the best on its held-out pairs"


def test_a_recent_version_is_kept_regardless_of_its_number(store: VersionStore) -> None:
    old = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7200))
    names = [publish(store, created=old), publish(store), publish(store), publish(store)]
    assert pruned_names(store, 1, grace_s=3600) == [names[0]]


def test_a_version_with_an_unreadable_manifest_is_kept(store: VersionStore) -> None:
    names = [publish(store) for _ in range(5)]
    (store.path(names[0]) / MANIFEST).write_bytes(b"{")
    (store.path(names[1]) / MANIFEST).write_bytes(b'{"created": 5}')
    (store.path(names[2]) / MANIFEST).write_bytes(b'{"created": "2020-01-01T00:00:00Z", "verdict": "x"}')
    assert pruned_names(store, 1) == []


def test_a_pruned_version_keeps_its_manifest_and_its_lineage(store: VersionStore) -> None:
    names = [publish(store) for _ in range(3)]
    manifest = store.manifest(names[0])
    store.prune(names[0])
    assert (store.names(), store.pruned()) == (names[1:], [names[0]])
    assert store.manifest(names[0]) == manifest
    assert list(store.statuses().items()) == [
        (names[0], "pruned"),
        (names[1], "published"),
        (names[2], "published"),
    ]
    assert not list((store.root / ".staging" / ".trash").iterdir())
    with pytest.raises(UnknownVersionError):
        store.path(names[0])
    with pytest.raises(UnknownVersionError):
        store.activate(names[0])
    (store.root / ".last").unlink()
    store.activate(names[1])
    assert store.stage()[0] == "v000004"


def test_the_name_of_a_pruned_version_is_never_reused_even_if_the_counter_is_lost(
    store: VersionStore,
) -> None:
    first, last = publish(store), publish(store)
    store.activate(first)
    store.prune(last)
    (store.root / ".last").unlink()
    assert store.stage()[0] == "v000003"


def test_a_version_that_becomes_current_or_labelled_during_pruning_is_kept(store: VersionStore) -> None:
    first, second, third = (publish(store) for _ in range(3))
    store.activate(first)
    store.set_label("stable", Label(second))
    assert [store.prune(name) for name in (first, second, third)] == [False, False, True]
    store.verify(first)
    store.verify(second)


def test_readers_always_find_a_manifest_while_versions_are_pruned(store: VersionStore) -> None:
    names = [publish(store) for _ in range(40)]
    stop = threading.Event()
    read = 0

    def reading() -> int:
        count = 0
        while not stop.is_set():
            for name in names:
                assert store.manifest(name)["name"] == name
                count += 1
        return count

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(reading) for _ in range(2)]
        for name in names[:-1]:
            assert store.prune(name)
        stop.set()
        read = sum(reader.result() for reader in readers)
    assert read > 0
    assert list(store.statuses()) == names


def test_retention_reads_the_current_leases(store: VersionStore, redis_client: redis.Redis) -> None:
    names = [publish(store) for _ in range(5)]
    lease(redis_client, "a", names[0])
    lease(redis_client, "b", names[1])
    lease(redis_client, "c", names[1])
    lease(redis_client, "d", "-")  # released
    assert leased_versions(redis_client) == {names[0]: 1, names[1]: 2}
    retention = Retention(store, partial(leased_versions, redis_client), 1, 0)
    assert retention.prune() == [names[2]]
    lease(redis_client, "a", names[0], -1.0)  # expired
    assert retention.prune() == [names[0]]
    assert store.pruned() == [names[0], names[2]]


def test_nothing_is_pruned_when_a_lease_is_unreadable_or_redis_does_not_answer(
    store: VersionStore, redis_client: redis.Redis, tmp_path: Path
) -> None:
    names = [publish(store) for _ in range(5)]
    redis_client.hset(LEASES, "odd", "for ever")
    with pytest.raises(InvalidVersionError, match="odd"):
        Retention(store, partial(leased_versions, redis_client), 1, 0).prune()
    with redis.Redis.from_url(f"unix://{tmp_path}/nobody.sock") as nobody, pytest.raises(redis.RedisError):
        Retention(store, partial(leased_versions, nobody), 1, 0).prune()
    assert store.names() == names
