"""The watch after a promotion: its breaches, and over real HTTP its outcomes."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from metarm.errors import ReadOnlyStoreError
from metarm.model.reward_model import load_model
from metarm.runtime.loops import Loops
from metarm.shared.connection import connect
from metarm.shared.watches import Outcome, WatchBoard, WatchRecord
from metarm.store.versions import VersionStore
from service.oversight.drift import Comparison, Drift, Figures, Reference, VersionDrift
from service.oversight.watch import Watch
from service.oversight.watched import Watched, breaches
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.versions.live import LiveVersions, LoadedVersion
from tests.processes import RedisProcess, Served, service_here, two_services_here
from tests.store import publish
from tests.tiny import CORPUS, Kind, poisoned, with_head

RULES = ServiceSettings(watch_min_groups=3, watch_min_spread_ratio=0.5, watch_max_disagreement=0.6)
LOOSE = RULES.model_copy(update={"watch_min_spread_ratio": 0.0})  # checks only the order
WIDE: dict[str, Any] = {"spread": 1.0, "low": -9.0, "high": 9.0}
WATCH = {
    "METARM_POLL_MS": "50",
    "METARM_WATCH_GROUPS": "12",
    "METARM_WATCH_MIN_GROUPS": "6",
}
ALL_PROMPTS = {**WATCH, "METARM_WATCH_SHARE": "1"}
FORCED = {"accepted": False, "forced": True, "reasons": ["worse"], "figures": {}, "thresholds": {}}
POISON = "pencils"
SCORES = [0.1, -1.0, 2.0, 0.7]


def watched(own: float, other: float, pairs: list[tuple[list[float], list[float]]]) -> Watched:
    """A watch over compared groups. `own` and `other` are the versions' reference spreads; 0 means no
    reference."""
    drift, parent = (
        Reference.of({"reference": {**WIDE, "spread": spread} if spread else None}) for spread in (own, other)
    )
    found = Watched("v000002", "v000001", 1.0, VersionDrift(drift, 9), parent, 0, 0)
    for group in pairs:
        found.compared = found.compared.plus(Comparison.of_group(*group))
    return found


def scaled(factor: float) -> list[float]:
    return [factor * score for score in SCORES]


@pytest.mark.parametrize(
    ("own", "other", "factor", "mentions"),
    [
        (1.0, 1.0, 1.0, None),
        (1.0, 1.0, 0.4, "spread ratio is 0.400"),
        (0.4, 1.0, 0.4, None),  # equal after normalisation by its own reference
        (2.5, 1.0, 1.0, "spread ratio is 0.400"),  # equal scores, but a larger reference spread
        (1.0, 1.0, -1.0, "orders 1.000 of the pairs in 3 groups"),
        (0.0, 1.0, 0.1, None),  # without a reference the spreads cannot be compared
        (0.0, 0.0, 0.0, "spread ratio is 0.000"),  # a zero spread is zero in any unit
    ],
)
def test_a_low_normalised_spread_or_a_reversed_order_is_a_breach(
    own: float, other: float, factor: float, mentions: str | None
) -> None:
    reasons = breaches(watched(own, other, [(scaled(factor), SCORES)] * 3), RULES)
    assert len(reasons) == (mentions is not None)
    assert mentions is None or mentions in reasons[0]


@pytest.mark.parametrize(
    ("parent_spread", "swapped", "groups", "mentions"),
    [
        (1.0, 1, 3, None),  # one pair in six: sound retrains do that
        (1.0, 2, 3, "orders 0.333 of the pairs in 3 groups differently from its parent, which still tells"),
        (9.0, 2, 3, None),  # the parent itself barely separates these responses
        (0.0, 2, 3, None),  # without a reference it is unknown whether the parent separates them
        (1.0, 2, 2, None),  # too few groups
    ],
)
def test_a_different_order_is_a_breach_only_if_the_parent_separates_the_responses(
    parent_spread: float, swapped: int, groups: int, mentions: str | None
) -> None:
    ranks = [0.0, 1.0, 2.0, 3.0]
    others = {1: [1.0, 0.0, 2.0, 3.0], 2: [1.0, 0.0, 3.0, 2.0]}
    reasons = breaches(watched(1.0, parent_spread, [(others[swapped], ranks)] * groups), LOOSE)
    assert len(reasons) == (mentions is not None)
    assert mentions is None or mentions in reasons[0]


def test_a_different_order_within_chance_is_no_breach() -> None:
    """As much disagreement as in a breach, but between groups so different that it may be chance."""
    ranks = [0.0, 1.0, 2.0, 3.0]
    pairs = [(ranks, ranks), (ranks, ranks), (ranks[::-1], ranks)]
    found = watched(1.0, 1.0, pairs)
    assert found.compared.mean_disagreement == pytest.approx(1 / 3)
    assert found.compared.disagreement_error == pytest.approx(1 / 3)
    assert breaches(found, LOOSE) == []
    assert len(breaches(watched(1.0, 1.0, pairs * 12), LOOSE)) == 0
    assert len(breaches(watched(1.0, 1.0, pairs * 20), LOOSE)) == 1


def test_too_few_groups_are_no_breach_but_one_non_finite_score_is() -> None:
    found = watched(1.0, 1.0, [(scaled(-0.1), SCORES)] * 2)
    assert breaches(found, RULES) == []
    found.drift.non_finite = 1
    assert "failed with a non-finite score" in breaches(found, RULES)[0]


def test_counts_from_before_the_watch_are_excluded() -> None:
    found = watched(1.0, 1.0, [])
    found.drift.add(Figures.of_group(SCORES, [1, 2, 3, 4], 0, found.drift.reference), None)
    found.groups_before, found.non_finite_before, found.drift.non_finite = 1, 2, 2
    assert found.groups == found.non_finite == 0
    assert breaches(found, RULES) == []


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        ("watching", "passed", "passed"),
        ("passed", "watching", "passed"),
        ("watching", "left", "left"),
        ("left", "watching", "watching"),
        ("rolled_back", "passed", "rolled_back"),
        ("rolled_back", "left", "rolled_back"),
        ("passed", "rolled_back", "rolled_back"),
    ],
)
def test_several_servers_record_the_most_severe_outcome_of_a_watch_in_any_order(
    first: Outcome, then: Outcome, kept: Outcome, redis_client: redis.Redis
) -> None:
    board = WatchBoard(redis_client)
    assert board.read() == {}
    for outcome in (first, then):
        board.save(WatchRecord("v000002", "v000001", outcome, 1.5, "why", {"groups": 3}))
    assert board.read() == {"v000002": WatchRecord("v000002", "v000001", kept, 1.5, "why", {"groups": 3})}


def test_a_failed_rollback_is_reported_and_retried_and_its_record_is_saved_when_redis_returns(
    tmp_path: Path,
    redis_process: RedisProcess,
    checkpoint: Callable[[Kind], Path],
) -> None:
    names = [publish(tmp_path, checkpoint("bert"), reference=WIDE) for _ in range(2)]
    store = VersionStore(tmp_path / "versions")
    store.activate(names[0])
    refusals = [ReadOnlyStoreError("the store cannot be written from here")]

    async def load(name: str) -> LoadedVersion:
        model = load_model(store.path(name), 128)
        return LoadedVersion(name, model, manifest=store.manifest(name))

    async def main() -> None:
        live, metrics, drift = LiveVersions(load, 2, store), Metrics(), Drift(50)

        async def activate(name: str, reason: str) -> None:
            assert "spread ratio is 0.100" in reason
            if refusals:
                raise refusals.pop()
            store.activate(name)
            await live.make_current(name)

        def make() -> Watch:
            board, loop = WatchBoard(client), Loops().add("watch-records")
            return Watch(
                RULES, store, live, drift, board, activate, metrics, loop, retry_s=0.0, share_every_s=0.0
            )

        async def promote() -> Watch:
            watch = make()
            for name in names:
                store.activate(name)
                await live.make_current(name)
                await watch.judge()
            assert watch.view()["watching"]["version"] == names[1]
            parent, child = [await live.load(name) for name in names]
            for _ in range(3):
                watch.compared(parent, child, Comparison.of_group(SCORES, SCORES))  # reversed: ignored
                watch.compared(child, parent, Comparison.of_group(scaled(0.1), SCORES))
            return watch

        watch = await promote()
        await watch.judge()
        assert "cannot be written" in watch.view()["watching"]["rollback_failed"]
        assert live.current_name == names[1]
        redis_process.kill(signal.SIGKILL)
        redis_process.wait()
        await watch.judge()
        assert live.current_name == store.current() == names[0]
        assert [record["version"] for record in watch.rollbacks()] == [names[1]]
        redis_process.start()
        await watch.judge()
        assert WatchBoard(client).read()[names[1]].outcome == "rolled_back"

        again = make()
        for name in names:  # manually, on a server that has just started
            await live.make_current(name)
            await again.judge()
        assert again.view()["watching"] is None
        assert again.rollbacks() == watch.rollbacks()

    with connect(redis_process.url, timeout_s=10.0) as client:
        asyncio.run(main())


def score(process: Served, seed: int, count: int = 30, **more: Any) -> set[str]:
    """Score random groups, one per request, and return the versions that answered."""
    rng, words = random.Random(seed), " ".join(CORPUS).replace(POISON, "").split()
    answered = set()
    for _ in range(count):
        texts = [" ".join(rng.choices(words, k=rng.randint(2, 20))) for _ in range(5)]
        body = {"groups": [{"prompt": texts[0], "responses": texts[1:]}], **more}
        answer = process.http.post("/score", json=body)
        assert answer.status_code == 200, answer.text
        answered.add(answer.json()["version"])
    return answered


def drift(process: Served) -> dict[str, Any]:
    report: dict[str, Any] = process.http.get("/drift").json()
    return report


def serving(process: Served) -> str:
    name: str = process.http.get("/versions").json()["serving"]
    return name


def watching(process: Served) -> str | None:
    under_way = drift(process)["watch"]["watching"]
    return under_way["version"] if under_way else None


def ended(process: Served, version: str) -> dict[str, Any]:
    """Wait until the watch of a version has ended, and return its record."""
    found: list[dict[str, Any]] = []

    def has_ended() -> bool:
        found[:] = [e for e in drift(process)["watch"]["ended"] if e["version"] == version]
        return bool(found)

    process.wait_until(has_ended)
    return found[0]


def test_a_reversed_version_is_rolled_back_and_a_manual_activation_after_a_restart_is_not_watched(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    publish(tmp_path, checkpoint("bert"), reference=WIDE)
    with service_here(tmp_path, redis_process.url, **WATCH, METARM_WATCH_SHARE="0.001") as process:
        process.wait_ready()
        score(process, 1)
        assert watching(process) is None  # the first version was promoted from nothing
        hacked = with_head(tmp_path / "hacked", checkpoint("bert"), -1)
        publish(tmp_path, hacked, reference=WIDE, verdict=FORCED)
        process.wait_until(lambda: watching(process) == "v000002")
        assert drift(process)["watch"]["watching"]["share"] == 1.0  # all prompts, because the gate refused it
        score(process, 2)
        process.wait_until(lambda: serving(process) == "v000001")
        outcome = ended(process, "v000002")
        assert (outcome["outcome"], outcome["parent"]) == ("rolled_back", "v000001")
        assert outcome["figures"]["compared"]["disagreement"] == 1.0
        assert outcome["figures"]["compared"]["spread_to_other"] == pytest.approx(1.0, abs=1e-3)
        listed = process.http.get("/versions").json()
        assert (listed["current"], listed["rollbacks"]) == ("v000001", [outcome])
        assert "orders 1.000 of the pairs" in outcome["reason"]
        assert "orders 1.000 of the pairs" in process.output
        metrics = process.http.get("/metrics").text
        assert 'rm_rollbacks_total{version="v000002"} 1.0' in metrics
        assert 'rm_disagreement{other="v000001",version="v000002"} 1.0' in metrics
        assert 'rm_shadow_scored_total{version="v000001"}' in metrics
        assert score(process, 3) == {"v000001"}
        assert watching(process) is None  # a rollback is not a promotion
    with service_here(tmp_path, redis_process.url, **WATCH) as process:
        process.wait_ready()
        process.wait_until(lambda: process.http.get("/versions").json()["rollbacks"] == [outcome])
        assert process.http.post("/versions/v000002/activate").json()["serving"] == "v000002"
        score(process, 4)
        process.wait_until(lambda: drift(process)["versions"][0]["total"]["groups"] == 30)
        assert watching(process) is None
        assert (serving(process), drift(process)["versions"][0]["shadow"]) == ("v000002", [])


def test_an_equal_version_passes_and_constant_or_non_finite_scores_cause_a_rollback(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    for _ in range(2):
        publish(tmp_path, checkpoint("bert"))  # no reference: only a zero spread is detected
    with service_here(tmp_path, redis_process.url, **ALL_PROMPTS) as process, redis_process.client() as client:
        process.wait_ready()
        score(process, 1, count=3)
        publish(tmp_path, checkpoint("bert"))
        process.wait_until(lambda: watching(process) == "v000003")
        under_way = drift(process)["watch"]["watching"]
        assert "no reference" in under_way["spread_not_compared"]
        score(process, 2)
        passed = ended(process, "v000003")
        assert passed["outcome"] == "passed"
        assert passed["figures"]["compared"]["disagreement"] == 0
        assert passed["figures"]["answered_groups"] >= 12

        publish(tmp_path, with_head(tmp_path / "constant", checkpoint("bert"), 0))
        process.wait_until(lambda: watching(process) == "v000004")
        score(process, 3)
        assert ended(process, "v000004")["outcome"] == "rolled_back"
        process.wait_until(lambda: serving(process) == "v000003")
        # the watch has noticed the rollback
        process.wait_until(lambda: "v000004" in WatchBoard(client).read())

        publish(tmp_path, poisoned(tmp_path / "poisoned", POISON))
        process.wait_until(lambda: watching(process) == "v000005")
        answer = process.http.post("/score", json={"groups": [{"prompt": "x", "responses": [POISON]}]})
        assert answer.json()["error"]["code"] == "non_finite_score"
        process.wait_until(lambda: serving(process) == "v000003")
        assert "failed with a non-finite score" in ended(process, "v000005")["reason"]
        assert 'rm_non_finite_scores_total{version="v000005"} 1.0' in process.http.get("/metrics").text

        assert process.http.post("/versions/v000002/activate").json()["serving"] == "v000002"
        score(process, 5)
        assert watching(process) is None  # activating an older version is not a promotion
        assert "watching v000002" not in process.output  # and it was not watched at the start
        rolled_back = process.http.get("/versions").json()["rollbacks"]
    assert [record["version"] for record in rolled_back] == ["v000005", "v000004"]


def test_a_watch_continues_after_a_restart_and_ends_when_another_version_becomes_current(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    publish(tmp_path, checkpoint("bert"))
    publish(tmp_path, checkpoint("bert"), activate=False)
    with service_here(tmp_path, redis_process.url, **ALL_PROMPTS) as process, redis_process.client() as client:
        process.wait_ready()
        assert process.http.post("/versions/v000002/activate").json()["serving"] == "v000002"
        process.wait_until(lambda: "v000002" in WatchBoard(client).read())
    with service_here(tmp_path, redis_process.url, **ALL_PROMPTS) as process:
        process.wait_ready()
        process.wait_until(lambda: watching(process) == "v000002")
        assert process.http.post("/versions/v000001/activate").json()["serving"] == "v000001"
        left = ended(process, "v000002")
        assert (left["outcome"], left["reason"]) == ("left", "v000001 serves now")
        assert watching(process) is None


def test_a_rollback_by_one_server_ends_the_watch_on_the_other_which_lists_it_too(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with two_services_here(tmp_path, redis_process.url, **ALL_PROMPTS) as (one, other):
        publish(tmp_path, with_head(tmp_path / "hacked", checkpoint("bert"), -1))
        for process in (one, other):
            process.wait_until(lambda process=process: watching(process) == "v000002")  # type: ignore[misc]
        score(one, 1)
        for process in (one, other):
            process.wait_until(lambda process=process: serving(process) == "v000001")  # type: ignore[misc]
            assert ended(process, "v000002")["outcome"] in ("rolled_back", "left")
            process.wait_until(lambda process=process: _rolled_back(process) == ["v000002"])  # type: ignore[misc]
            assert watching(process) is None
        assert _rolled_back(one) == ["v000002"]  # still: the other server's 'left' does not replace it
        assert "rm_rollbacks_total{" not in other.http.get("/metrics").text


def _rolled_back(process: Served) -> list[str]:
    return [record["version"] for record in process.http.get("/versions").json()["rollbacks"]]
