"""GET /versions of a real server: the origin, status and verdict of every version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metarm.model.reward_model import load_model
from metarm.store.evaluations import keep_evaluation
from metarm.store.versions import VersionStore
from tests.processes import HttpThread, RedisProcess, service_here
from tests.tiny import Kind

MADE_FROM = {
    "job": "job-1",
    "method": "metarm",
    "source": "a checkpoint",
    "samples": {"first_entry": "1-0", "last_entry": "9-0", "counts": {"used": 8}, "policy_steps": [3, 12]},
    "preferences": {"source": "pairs.jsonl", "sha256": "ab" * 32, "pairs": 100},
    "settings": {"ascent": "conservative", "steps": 40, "seed": 7},
    "code_version": "0.1.0+g0123456789ab",
    "calibration": {"scale": 1.25, "shift": -0.5},
}
ACCEPTED = {"accepted": True, "forced": False, "reasons": [], "figures": {"agreement": 0.9}, "thresholds": {}}
REFUSED = {"accepted": False, "forced": False, "reasons": ["worse"], "figures": {}, "thresholds": {}}


@pytest.fixture
def store(tmp_path: Path, checkpoint: Callable[[Kind], Path]) -> VersionStore:
    """v1 pruned, v2 and v3 published (v3 forced and current), v4 rejected."""
    store = VersionStore(tmp_path / "data" / "versions")
    store.prepare()
    verdicts = [None, ACCEPTED, {**REFUSED, "forced": True}]
    for verdict in verdicts:
        name, folder = store.stage()
        load_model(checkpoint("bert"), 128).save(folder)
        store.publish(name, {**MADE_FROM, "parent": store.current(), "verdict": verdict})
    rejected, _ = store.stage()
    store.reject(rejected, {**MADE_FROM, "parent": "v000003", "verdict": REFUSED})
    assert store.prune("v000001")
    return store


@pytest.fixture
def server(store: VersionStore, redis_process: RedisProcess) -> HttpThread:
    return service_here(store.root.parent, redis_process.url)


def test_versions_lists_the_origin_status_and_verdict_of_every_version(
    store: VersionStore, server: HttpThread
) -> None:
    with server:
        server.wait_ready()
        listed = server.http.get("/versions").json()
        assert listed["current"] == "v000003"
        entries = {entry["name"]: entry for entry in listed["versions"]}
        assert list(entries) == ["v000001", "v000002", "v000003", "v000004"]
        assert [e["status"] for e in entries.values()] == ["pruned", "published", "published", "rejected"]
        assert [e["parent"] for e in entries.values()] == [None, "v000001", "v000002", "v000003"]
        for entry in entries.values():
            assert {field: entry[field] for field in MADE_FROM} == MADE_FROM
        assert [e["verdict"] for e in entries.values()] == [
            None,
            ACCEPTED,
            {**REFUSED, "forced": True},
            REFUSED,
        ]
        assert [e["reasons"] for e in entries.values()] == [[], [], ["worse"], ["worse"]]
        pruned = server.http.get("/versions/v000001")
        assert pruned.json()["digests"]
        score = {"groups": [{"prompt": "x", "responses": ["y"]}], "version": "v000001"}
        assert server.http.post("/score", json=score).status_code == 409


def test_accuracies_name_their_pairs_and_evaluations_are_listed_the_newest_first(
    store: VersionStore, server: HttpThread
) -> None:
    pairs = {"source": "/p/mine.jsonl", "sha256": "ab" * 32, "held_out_share": 0.2, "held_out_pairs": 50}
    for fields in (
        {"preferences": pairs, "metrics": {"held_out_accuracy": 0.75}},
        {"metrics": "none", "verdict": {"figures": ["odd"]}},
    ):
        name, folder = store.stage()
        (folder / "model.safetensors").write_bytes(b"weights")
        store.publish(name, fields, activate=False)
    for digest in ("1", "2"):
        of = {"source": "fresh.jsonl", "sha256": digest, "pairs": 9}
        figures = {"accuracy": 0.5, "interval": [0.2, 0.8], "longer_wins": 0.5, "change": None}
        keep_evaluation(store.root, "v000005", {"preferences": of, **figures})
    file = store.root / "evaluations" / "v000006.json"
    file.write_text('{"evaluations": [{}, 5, {"preferences": {"source": 1}}, null]}')
    with server:
        server.wait_ready()
        entries = {e["name"]: e for e in server.http.get("/versions").json()["versions"]}
    known = entries["v000005"]
    assert known["held_out"] == {"source": "/p/mine.jsonl", "sha256": "ab" * 32, "share": 0.2, "pairs": 50}
    assert known["held_out_accuracy"] == 0.75
    assert [one["preferences"]["sha256"] for one in known["evaluations"]] == ["2", "1"]
    odd = entries["v000006"]
    assert (odd["held_out"], odd["held_out_accuracy"], odd["evaluations"]) == (None, None, [])


@pytest.mark.parametrize(
    ("broken", "named"),
    [(b"{", "manifest.json"), (b'{"calibration": "x", "parent": 5}', "parent, calibration")],
)
def test_a_version_with_a_broken_manifest_is_listed_as_unreadable(
    store: VersionStore, server: HttpThread, broken: bytes, named: str
) -> None:
    (store.path("v000002") / "manifest.json").write_bytes(broken)
    with server:
        server.wait_ready()
        entry = server.http.get("/versions").json()["versions"][1]
    assert (entry["name"], entry["status"]) == ("v000002", "unreadable")
    assert named in entry["reasons"][0]


def test_a_version_reads_as_rolled_back_until_it_is_current_again(
    store: VersionStore, server: HttpThread
) -> None:
    with server:
        server.wait_ready()

        def rolled_back() -> list[str]:
            return [e["name"] for e in server.http.get("/versions").json()["versions"] if e["rolled_back"]]

        assert rolled_back() == []
        server.http.post("/versions/v000002/activate").raise_for_status()
        assert rolled_back() == ["v000003"]
        server.http.post("/versions/v000003/activate").raise_for_status()
        assert rolled_back() == []
        (store.root / ".withdrawn").write_bytes(b"{")
        assert rolled_back() == []
