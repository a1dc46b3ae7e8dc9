"""GET /drift and its metrics on a real server, also with a shadow canary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarm.figures import DEPRECATED_DRIFT_NAMES, with_deprecated_names
from metarm.store.versions import Label, VersionStore
from service.oversight.drift import Figures, Reference
from service.versions.prompt_share import share_of
from tests.processes import RedisProcess, Served, service_here
from tests.service.oversight.test_watch import POISON, WIDE, drift, score
from tests.store import publish
from tests.tiny import Kind, poisoned, with_head

Checkpoint = Callable[[Kind], Path]
GROUPS = [
    {"prompt": "What is it?", "responses": ["It is forty two.", "The first train.", "Yes."]},
    {"prompt": "Which?", "responses": ["words " * 300, "better words"]},
    {"prompt": "Alone?", "responses": ["The second one is cheaper."]},
]


def test_drift_reports_the_figures_of_answered_groups_by_policy_step(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint
) -> None:
    reference = {**WIDE, "spread": 0.5, "low": -0.1, "high": 0.1}
    publish(tmp_path, checkpoint("bert"), reference=reference)
    keys = {"METARM_SCORE_KEYS": '["worker-key"]', "METARM_RETRAIN_OVER_GROUPS": "3"}
    with service_here(tmp_path, redis_process.url, **keys) as process:
        process.wait_ready()
        assert process.http.get("/drift").json()["error"]["code"] == "unauthorized"
        process.http.headers["Authorization"] = "Bearer worker-key"
        assert drift(process)["versions"] == []
        first = {"groups": GROUPS, "policy": {"name": "actor", "step": 7}}
        answers = [process.http.post("/score", json=body).json() for body in (first, {"groups": GROUPS[:1]})]
        process.wait_until(lambda: sum(v["total"]["groups"] for v in drift(process)["versions"]) == 4)
        (seen,) = drift(process)["versions"]
        metrics = process.http.get("/metrics").text

    def expected(groups: list[dict[str, Any]]) -> dict[str, Any]:
        known, total = Reference.of({"reference": reference}), Figures()
        for group in groups:
            figures = Figures.of_group(group["scores"], group["tokens"], sum(group["truncated"]), known)
            total = total.plus(figures)
        both = with_deprecated_names(total.view(known), DEPRECATED_DRIFT_NAMES)
        return pytest.approx(both)  # type: ignore[return-value]

    stamped, unstamped = (answer["groups"] for answer in answers)
    assert (seen["version"], seen["older_steps"]) == ("v000001", None)
    assert seen["ratio_unavailable"] is seen["no_ratio"] is None
    assert seen["total"] == expected([*stamped, *unstamped])
    assert seen["window"] == expected([*stamped[1:], *unstamped])
    assert seen["total"]["truncation_rate"] == pytest.approx(1 / 9)
    steps = [{key: step.pop(key) for key in ("policy", "step")} for step in seen["steps"]]
    assert steps == [{"policy": None, "step": None}, {"policy": "actor", "step": 7}]
    assert seen["steps"] == [expected(unstamped), expected(stamped)]
    assert f'rm_reward_spread{{version="v000001"}} {seen["window"]["spread"]}' in metrics
    for name in ("rm_reward_spread_to_reference", "rm_reward_spread_ratio"):
        assert f'{name}{{version="v000001"}} {seen["window"]["spread_to_reference"]}' in metrics
    assert 'rm_score_count{version="v000001"} 9.0' in metrics
    for name in ("rm_length_correlation", "rm_truncation_ratio", "rm_saturated_ratio"):
        assert f'{name}{{version="v000001"}}' in metrics


def labels(process: Served) -> list[tuple[str, float, bool]]:
    """The version and share of each label, and whether the version is loaded."""
    return [(entry["version"], entry["share"], entry["loaded"]) for entry in process.http.get("/labels").json()]


def test_a_shadow_canary_is_compared_on_its_share_of_prompts_and_answers_no_request(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Checkpoint
) -> None:
    publish(tmp_path, checkpoint("bert"))
    publish(tmp_path, with_head(tmp_path / "reverse", checkpoint("bert"), -1), activate=False)
    publish(tmp_path, poisoned(tmp_path / "poisoned", POISON), activate=False)
    store = VersionStore(tmp_path / "versions")
    store.set_label("canary", Label("v000002", share=0.5, shadow=True))
    tight = {"METARM_QUEUE_TOKENS": "3000", "METARM_SCORE_CACHE_ENTRIES": "0"}
    with service_here(tmp_path, redis_process.url, **tight) as process:
        process.wait_ready()
        process.wait_until(lambda: labels(process) == [("v000002", 0.5, True)])
        prompts = [f"Question {number}?" for number in range(40)]
        chosen = sum(share_of(prompt) < 0.5 for prompt in prompts)
        for prompt in prompts:
            body = {"groups": [{**GROUPS[0], "prompt": prompt}]}
            assert process.http.post("/score", json=body).json()["version"] == "v000001"
        scored = f'rm_shadow_scored_total{{version="v000002"}} {float(chosen)}'
        process.wait_until(lambda: scored in process.http.get("/metrics").text)
        (seen,) = drift(process)["versions"]
        (shadow,) = seen["shadow"]
        assert shadow["other"] == "v000002"
        assert (shadow["total"]["groups"], shadow["total"]["disagreement"]) == (chosen, 1.0)
        assert shadow["total"]["other_spread"] == pytest.approx(shadow["total"]["spread"], rel=1e-3)

        store.set_label("canary", Label("v000003", share=1.0, shadow=True))
        process.wait_until(lambda: labels(process) == [("v000003", 1.0, True)])
        body = {"groups": [{"prompt": "x", "responses": [POISON, "No."]}]}
        assert process.http.post("/score", json=body).json()["version"] == "v000001"
        dropped = 'rm_shadow_dropped_total{reason="non_finite"} 1.0'
        process.wait_until(lambda: dropped in process.http.get("/metrics").text)

        store.remove_label("canary")
        process.wait_until(lambda: labels(process) == [])
        assert score(process, 1, count=3) == {"v000001"}
