"""Labels and the canary over HTTP, with two servers on one store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from metarm import RewardClient
from metarm.shared.keys import SAMPLES
from metarm.shared.sample_log import SampleLog
from metarm.store.versions import Label, VersionStore
from tests.offline import TOLERANCE, OfflineModel
from tests.processes import PairHere, RedisProcess, Served, service_here
from tests.store import publish, publish_several
from tests.tiny import CORPUS, LAST_WORD, make_checkpoint, poisoned, without_last_word

SETTINGS = {"METARM_POLL_MS": "50", "METARM_KEEP_LOADED": "2"}
GROUPS = [
    {
        "id": f"g{number}",
        "prompt": f"{number} trains {CORPUS[number % 5][:20]}",
        "responses": ["The first.", "It is."],
    }
    for number in range(60)
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four versions. The second is current, the third is calibrated."""
    line = {"scale": 0.5, "shift": 2.0}
    return publish_several(tmp_path_factory.mktemp("data"), 4, current=2, calibrations={3: line})


@pytest.fixture(autouse=True)
def _remove_labels(servers: PairHere) -> Iterator[None]:
    yield
    for entry in servers[0].http.get("/labels").json():
        servers[0].http.delete(f"/labels/{entry['label']}")
    servers[1].wait_until(lambda: servers[1].http.get("/labels").json() == [])


def put(process: Served, label: str, version: str, **fields: Any) -> dict[str, Any]:
    answer = process.http.put(f"/labels/{label}", json={"version": version, **fields})
    assert answer.status_code == 200, answer.text
    entry: dict[str, Any] = answer.json()
    return entry


def labelled(process: Served) -> dict[str, tuple[str, bool]]:
    return {entry["label"]: (entry["version"], entry["loaded"]) for entry in process.http.get("/labels").json()}


def score(process: Served, **fields: Any) -> dict[str, Any]:
    answer = process.http.post("/score", json={"groups": GROUPS, "log": False, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def by_version(body: dict[str, Any]) -> dict[str, str]:
    return {group["id"]: group["version"] for group in body["groups"]}


def test_a_label_names_a_version_on_every_server_and_keeps_it_in_memory(
    servers: PairHere,
) -> None:
    one, other = servers
    entry = put(one, "stable", "v000001")
    assert entry == {"label": "stable", "version": "v000001", "share": 0.0, "shadow": False, "loaded": True}
    other.wait_until(lambda: labelled(other) == {"stable": ("v000001", True)})
    for process in servers:
        for version in ("v000003", "v000004"):
            score(process, version=version)
        assert labelled(process) == {"stable": ("v000001", True)}
        assert score(process, version="stable")["version"] == "v000001"
        answer = process.http.post("/score", json={"groups": GROUPS[:1]}, headers={"X-RM-Version": "stable"})
        assert answer.headers["x-rm-version"] == "v000001"


def test_a_label_can_be_moved_and_removed(servers: PairHere) -> None:
    one, other = servers
    put(one, "mine-1", "v000001")
    put(one, "mine-1", "v000003")
    assert score(one, version="mine-1")["version"] == "v000003"
    other.wait_until(lambda: labelled(other) == {"mine-1": ("v000003", True)})
    assert other.http.delete("/labels/mine-1").json() == {"label": "mine-1"}
    one.wait_until(lambda: labelled(one) == {})
    gone = one.http.post("/score", json={"groups": GROUPS[:1], "version": "mine-1"})
    assert gone.status_code == 409
    assert "mine-1" in gone.json()["error"]["message"]
    again = one.http.delete("/labels/mine-1")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "unknown_label")


@pytest.mark.parametrize(
    ("label", "body", "status"),
    [
        ("stable", {"version": "v000009"}, 409),
        ("stable", {"version": "stable"}, 422),
        ("stable", {"version": "v000001", "share": 0.5}, 422),
        ("stable", {"version": "v000001", "shadow": True}, 422),
        ("stable", {"version": "v000001", "shadow": False}, 422),
        ("canary", {"version": "v000001", "share": 1.5}, 422),
        ("canary", {"version": "v000001", "share": -0.1}, 422),
        ("canary", {}, 422),
        ("v000001", {"version": "v000001"}, 422),
        ("v12", {"version": "v000001"}, 422),
        ("current", {"version": "v000001"}, 422),
        ("Stable", {"version": "v000001"}, 422),
        ("a" * 64, {"version": "v000001"}, 422),
    ],
)
def test_an_invalid_label_is_refused_and_changes_nothing(
    servers: PairHere, label: str, body: dict[str, Any], status: int
) -> None:
    answer = servers[0].http.put(f"/labels/{label}", json=body)
    assert answer.status_code == status
    if status == 409:
        assert answer.json()["error"]["details"]["on_disk"] == ["v000001", "v000002", "v000003", "v000004"]
    assert labelled(servers[0]) == {}


def test_the_canary_answers_the_same_share_of_prompts_on_every_server(
    servers: PairHere, data_dir: Path
) -> None:
    one, other = servers
    put(one, "canary", "v000003", share=0.4)
    other.wait_until(lambda: labelled(other) == {"canary": ("v000003", True)})
    bodies = [score(process, raw=True) for process in (one, other, one)]
    first = by_version(bodies[0])
    assert all(by_version(body) == first for body in bodies)
    assert {body["version"] for body in bodies} == {"v000002"}
    assert 10 <= list(first.values()).count("v000003") <= 40
    assert set(first.values()) == {"v000002", "v000003"}
    offline = {"v000002": OfflineModel(data_dir / "m1"), "v000003": OfflineModel(data_dir / "m2")}
    for asked, group in zip(GROUPS, bodies[0]["groups"], strict=True):  # one version per group, in order
        expected = [offline[group["version"]].score(str(asked["prompt"]), text) for text in asked["responses"]]
        assert group["raw"] == pytest.approx(expected, abs=TOLERANCE)
        if group["version"] == "v000003":
            assert group["scores"] == [0.5 * reward + 2.0 for reward in group["raw"]]
        else:
            assert group["scores"] == group["raw"]
    alone = {id_: version for group in GROUPS for id_, version in by_version(_alone(one, group)).items()}
    assert alone == first  # independent of the other groups in the request
    put(one, "canary", "v000003", share=0.8)
    more = by_version(score(one))
    assert {id_ for id_, version in first.items() if version == "v000003"} < {
        id_ for id_, version in more.items() if version == "v000003"
    }


def _alone(process: Served, group: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = process.http.post("/score", json={"groups": [group], "log": False}).json()
    return body


def test_a_pinned_request_is_not_routed_to_the_canary(servers: PairHere) -> None:
    one, _ = servers
    put(one, "canary", "v000003", share=1.0)
    assert set(by_version(score(one)).values()) == {"v000003"}
    assert set(by_version(score(one, version="v000002")).values()) == {"v000002"}
    assert set(by_version(score(one, version="canary")).values()) == {"v000003"}
    assert set(by_version(score(one, min_version="v000002")).values()) == {"v000003"}
    put(one, "canary", "v000001", share=1.0)
    assert set(by_version(score(one, min_version="v000002")).values()) == {"v000002"}


def test_a_shadow_canary_answers_no_request(servers: PairHere) -> None:
    one, _ = servers
    entry = put(one, "canary", "v000003", share=1.0, shadow=True)
    assert (entry["share"], entry["shadow"]) == (1.0, True)
    assert set(by_version(score(one)).values()) == {"v000002"}


@pytest.mark.parametrize(
    ("broken", "word", "reason", "code"),
    [
        (partial(poisoned, word="pencils"), "pencils", "non_finite", "non_finite_score"),
        (without_last_word, LAST_WORD, "failed", "internal_error"),
    ],
)
def test_unpinned_groups_that_the_canary_cannot_score_fall_back_to_the_current_version(
    broken: Callable[[Path], Path],
    word: str,
    reason: str,
    code: str,
    tmp_path: Path,
    redis_process: RedisProcess,
) -> None:
    publish(tmp_path, make_checkpoint(tmp_path / "sound", "bert", seed=1))
    publish(tmp_path, broken(tmp_path / "broken"), activate=False)
    sound, canary = OfflineModel(tmp_path / "sound"), OfflineModel(tmp_path / "broken")
    groups = [{"prompt": group["prompt"], "responses": ["The first.", word]} for group in GROUPS]
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_ready()
        put(process, "canary", "v000002", share=0.5)
        assert set(by_version(score(process)).values()) == {"v000001", "v000002"}
        body = score(process, groups=groups, log=True, request_id="fell-back")
        assert set(by_version(body).values()) == {"v000001"}
        for asked, scored in zip(groups, body["groups"], strict=True):
            expected = [sound.score(str(asked["prompt"]), text) for text in asked["responses"]]
            assert scored["scores"] == pytest.approx(expected, abs=TOLERANCE)
        counted = [
            line
            for line in process.http.get("/metrics").text.splitlines()
            if line.startswith("rm_canary_fallbacks_total{")
        ]
        met = list(by_version(score(process)).values()).count("v000002")
        other = "failed" if reason == "non_finite" else "non_finite"
        assert sorted(counted) == sorted(
            f'rm_canary_fallbacks_total{{reason="{why}"}} {float(groups)}'
            for why, groups in ((reason, met), (other, 0))
        )
        for pin in ({"version": "canary"}, {"version": "v000002"}):
            failed = process.http.post("/score", json={"groups": groups, **pin})
            assert (failed.status_code, failed.json()["error"]["code"]) == (500, code)
            assert failed.headers["x-rm-version"] == "v000002"
        again = score(process)  # the canary still scores the groups that it can score
        for asked, scored in zip(GROUPS, again["groups"], strict=True):
            offline = canary if scored["version"] == "v000002" else sound
            expected = [offline.score(str(asked["prompt"]), text) for text in asked["responses"]]
            assert scored["scores"] == pytest.approx(expected, abs=TOLERANCE)
        with redis_process.client() as client:
            process.wait_until(lambda: client.xlen(SAMPLES) >= len(groups))
            logged = {group.version for group in SampleLog(client).read_unused(10_000).groups}
        assert logged == {"v000001"}
    assert process.output.count("the canary v000002 fails") == 1


def test_if_the_fallback_also_fails_the_error_of_the_current_version_is_returned(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, poisoned(tmp_path / "current", "pencils"))
    publish(tmp_path, without_last_word(tmp_path / "canary"), activate=False)
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_ready()
        put(process, "canary", "v000002", share=1.0)
        group = {"prompt": "What?", "responses": [f"pencils {LAST_WORD}"]}
        failed = process.http.post("/score", json={"groups": [group]})
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "non_finite_score")
        assert failed.headers["x-rm-version"] == "v000001"


def test_each_group_is_logged_with_the_version_and_the_scores_that_were_served(
    servers: PairHere, shared_redis: RedisProcess
) -> None:
    one, _ = servers
    put(one, "canary", "v000003", share=0.5)
    body = score(one, log=True, request_id="logged-here")
    with shared_redis.client() as client:
        one.wait_until(lambda: client.xlen(SAMPLES) >= len(GROUPS))
        entries = SampleLog(client).read_unused(10_000).groups
    logged = {
        entry.id: (entry.version, list(entry.scores)) for entry in entries if entry.request_id == "logged-here"
    }
    assert logged == {
        f"logged-here/{group['id']}": (group["version"], group["scores"]) for group in body["groups"]
    }
    assert {version for version, _ in logged.values()} == {"v000002", "v000003"}


def test_the_client_sets_labels_and_reports_the_version_that_scored_each_group(
    servers: PairHere,
) -> None:
    with RewardClient(servers[0].url) as client:
        client.set_label("canary", "v000003", share=1.0)
        assert [entry["label"] for entry in client.labels()] == ["canary"]
        result = client.score(GROUPS[:2], raw=True)
        assert result.version == "v000002"
        for group in result.groups:
            assert group.version == "v000003"
            assert group.raw is not None
            assert group.scores == tuple(0.5 * reward + 2.0 for reward in group.raw)
        assert client.score(GROUPS[:1]).groups[0].raw is None
        client.remove_label("canary")
        assert client.labels() == []


def test_labelling_an_invalid_version_fails_and_unpinned_requests_are_still_answered(
    servers: PairHere, data_dir: Path
) -> None:
    one, _ = servers
    store = VersionStore(data_dir / "versions")
    name = publish(data_dir, data_dir / "m3", activate=False)
    (store.path(name) / "extra").write_text("x")
    refused = one.http.put("/labels/canary", json={"version": name, "share": 1.0})
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "invalid_version")
    assert "extra" in refused.json()["error"]["message"]
    from metarm.store.versions import Label

    store.set_label("canary", Label(name, 1.0))  # as another server could have done before the corruption
    one.wait_until(lambda: labelled(one) == {"canary": (name, False)})
    assert set(by_version(score(one)).values()) == {"v000002"}
    listed = one.http.get("/versions").json()
    assert listed["refused"] is None  # the version that the pointer names is served
    (refusal,) = [entry for entry in listed["refusals"] if entry["name"] == name]
    assert "extra" in refusal["reason"]
    assert refusal["times"] == 1  # requested twice but read once, because its files have not changed
    (data_dir / "versions" / name / "extra").unlink()
    assert put(one, "canary", name, share=1.0)["loaded"]


def test_unreadable_labels_keep_their_last_state_and_the_readiness_reports_it(
    servers: PairHere, data_dir: Path
) -> None:
    one, _ = servers
    put(one, "stable", "v000001")
    file = data_dir / "versions" / "labels.json"
    kept = file.read_bytes()
    file.write_bytes(b"{")
    one.wait_until(lambda: "labels" in one.http.get("/ready").text)
    assert score(one, version="stable")["version"] == "v000001"
    file.write_bytes(kept)
    one.wait_until(lambda: "labels" not in one.http.get("/ready").text)


def test_only_an_admin_key_changes_labels_and_a_score_key_may_take_leases(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, make_checkpoint(tmp_path / "m", "bert"))
    keys = {"METARM_SCORE_KEYS": '["worker-key"]', "METARM_ADMIN_KEYS": '["admin-key"]'}
    with service_here(tmp_path, redis_process.url, **keys) as process:
        process.wait_ready()

        def status(method: str, path: str, key: str | None, body: Any = None) -> int:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return process.http.request(method, path, json=body, headers=headers).status_code

        everyone = (None, "worker-key", "admin-key")
        target = {"version": "v000001"}
        assert [status("PUT", "/labels/stable", key, target) for key in everyone] == [401, 403, 200]
        assert [status("GET", "/labels", key) for key in everyone] == [401, 200, 200]
        assert [status("DELETE", "/labels/stable", key) for key in everyone] == [401, 403, 200]
        lease = {**target, "ttl_s": 60}
        assert [status("POST", "/leases", key, lease) for key in everyone] == [401, 201, 201]
        assert [status("GET", "/leases", key) for key in everyone] == [401, 200, 200]


def test_a_label_change_is_refused_if_neither_the_server_nor_a_trainer_can_write(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, make_checkpoint(tmp_path / "m", "bert"))
    (tmp_path / "versions" / ".lock").unlink()
    (tmp_path / "versions" / ".lock").mkdir()
    with service_here(tmp_path, redis_process.url) as process:
        process.wait_ready()
        answer = process.http.put("/labels/stable", json={"version": "v000001"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "trainer_unavailable")
        assert labelled(process) == {}


def test_the_numbers_of_labels_and_of_labelled_versions_are_limited(
    data_dir: Path, redis_process: RedisProcess
) -> None:
    limits = {"METARM_MAX_LABELS": "4", "METARM_MAX_LABELLED_VERSIONS": "2"}
    with service_here(data_dir, redis_process.url, **SETTINGS, **limits) as process:
        process.wait_ready()
        put(process, "a", "v000001")
        put(process, "b", "v000003")
        refused = process.http.put("/labels/c", json={"version": "v000004"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "too_many_labels")
        assert "2 versions" in refused.json()["error"]["message"]
        assert "METARM_MAX_LABELLED_VERSIONS" in refused.json()["error"]["message"]
        put(process, "b", "v000004")  # a label may move, and a version may have several
        put(process, "c", "v000004")
        put(process, "canary", "v000001", share=0.5)
        refused = process.http.put("/labels/e", json={"version": "v000001"})
        assert (refused.status_code, refused.json()["error"]["details"]) == (409, {"limit": 4})
        assert "METARM_MAX_LABELS" in refused.json()["error"]["message"]
        assert labelled(process) == {
            "a": ("v000001", True),
            "b": ("v000004", True),
            "c": ("v000004", True),
            "canary": ("v000001", True),
        }
        for label in ("a", "b", "c", "canary"):
            process.http.delete(f"/labels/{label}")


def test_labels_that_are_put_at_the_same_time_do_not_exceed_the_limits(
    data_dir: Path, redis_process: RedisProcess
) -> None:
    limits = {"METARM_MAX_LABELS": "3"}
    with service_here(data_dir, redis_process.url, **SETTINGS, **limits) as process:
        process.wait_ready()
        with ThreadPoolExecutor(8) as threads:
            url = process.http.put
            answers = list(threads.map(lambda n: url(f"/labels/l{n}", json={"version": "v000001"}), range(16)))
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [409] * 13
        for label in labelled(process):
            process.http.delete(f"/labels/{label}")


def test_of_more_labels_than_the_limit_some_versions_are_held_and_the_others_load_on_request(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    data_dir = publish_several(tmp_path, 5, current=1)
    store = VersionStore(data_dir / "versions")
    for number in range(1, 6):  # by an earlier release
        store.set_label("canary" if number == 5 else f"label-{number}", Label(f"v{number:06d}"))
    limits = {"METARM_KEEP_LOADED": "2", "METARM_MAX_LABELLED_VERSIONS": "2", "METARM_POLL_MS": "50"}
    with service_here(data_dir, redis_process.url, **limits) as process:
        process.wait_ready()
        process.wait_until(lambda: process.http.get("/overview").json()["loaded"] == ["v000001", "v000005"])
        assert score(process, version="label-4")["version"] == "v000004"
        assert score(process, version="label-3")["version"] == "v000003"
        process.wait_until(lambda: process.http.get("/overview").json()["loaded"] == ["v000001", "v000005"])
        assert process.output.count("METARM_MAX_LABELLED_VERSIONS") == 1
        put(process, "label-2", "v000005")  # fewer versions than before, although still too many
        refused = process.http.put("/labels/more", json={"version": "v000002"})
        assert refused.json()["error"]["code"] == "too_many_labels"
