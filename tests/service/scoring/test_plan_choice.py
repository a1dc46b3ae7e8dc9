"""The forward plan: from settings, from a saved measurement, or from a new measurement."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from metarm.model.reward_model import RewardModel, load_model
from service.scoring.measuring import Measured, Timing, best_plan, best_split, measure_plans
from service.scoring.plan import ForwardPlan
from service.scoring.plan_choice import choose_plan, fingerprint
from service.settings import ServiceSettings
from tests.processes import Process, RedisProcess, service
from tests.service.http.test_score import GROUP
from tests.store import publish
from tests.tiny import Kind

Kinds = Callable[[Kind], Path]
MEASURED = ForwardPlan(workers=1, threads=3, batch_tokens=2048, slice_tokens=2048)


@pytest.fixture
def model(checkpoint: Kinds) -> RewardModel:
    return load_model(checkpoint("bert"), 128)


CORES = 8
QUICK = Timing(rounds=1, timing_s=0.0, slow_s=60.0)
TOO_SLOW = Timing(rounds=1, timing_s=0.0, slow_s=0.0)  # for any model


def plan_on(
    data_dir: Path, model: RewardModel, cores: int = CORES, timing: Timing = QUICK, **settings: Any
) -> ForwardPlan:
    return choose_plan(model, ServiceSettings(data_dir=data_dir, **settings), cores, timing)


def settings_of(name: str, value: Any) -> ServiceSettings:
    return ServiceSettings(**{name: value})


def saved_record(data_dir: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((data_dir / "tuning.json").read_text())
    return record


def save_plan(data_dir: Path, model: RewardModel, plan: ForwardPlan, **other: Any) -> None:
    record = {"plan": asdict(plan), "measured_on": fingerprint(model, CORES) | other}
    (data_dir / "tuning.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("settings", "workers", "threads", "batch_tokens"),
    [
        ({"tune": False}, 8, 1, 1024),
        ({"score_workers": 2}, 2, 4, 1024),
        ({"score_workers": 3}, 3, 2, 1024),
        ({"score_workers": 20}, 20, 1, 1024),
        ({"score_threads": 2}, 4, 2, 1024),
        ({"score_threads": 3}, 2, 3, 1024),
        ({"score_threads": 20}, 1, 20, 1024),
        ({"score_workers": 5, "score_threads": 7}, 5, 7, 1024),
        ({"tune": False, "batch_tokens": 300}, 8, 1, 300),
    ],
)
def test_settings_determine_the_plan_without_a_measurement(
    tmp_path: Path, model: RewardModel, settings: dict[str, Any], workers: int, threads: int, batch_tokens: int
) -> None:
    expected = ForwardPlan(workers, threads, batch_tokens, batch_tokens)
    assert plan_on(tmp_path, model, **settings) == expected
    assert not list(tmp_path.iterdir())
    assert plan_on(tmp_path, model, **settings, slice_tokens=77).slice_tokens == 77


def test_a_slice_is_one_batch_or_several_if_the_route_pads(
    tmp_path: Path, model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan_on(tmp_path, model, tune=False, batch_tokens=500).slice_tokens == 500
    monkeypatch.setattr(model.route, "pads", True, raising=False)
    assert plan_on(tmp_path, model, tune=False, batch_tokens=500).slice_tokens == 2000
    assert plan_on(tmp_path, model, tune=False, batch_tokens=500, slice_tokens=77).slice_tokens == 77


@pytest.mark.parametrize(
    "setting", ["score_workers", "score_threads", "batch_tokens", "slice_tokens", "queue_tokens"]
)
def test_zero_is_refused_for_workers_threads_and_token_counts(setting: str) -> None:
    with pytest.raises(ValidationError, match=setting):
        settings_of(setting, 0)
    settings_of(setting, 1)


@pytest.mark.parametrize("setting", ["score_cache_entries", "prefix_cache_mb"])
def test_a_cache_size_may_be_zero_but_not_negative(setting: str) -> None:
    settings_of(setting, 0)
    with pytest.raises(ValidationError, match=setting):
        settings_of(setting, -1)


def test_a_measured_plan_is_saved_and_reused(tmp_path: Path, model: RewardModel) -> None:
    plan = plan_on(tmp_path, model)
    assert plan.workers * plan.threads == 8
    assert ForwardPlan(**saved_record(tmp_path)["plan"]) == plan
    assert [file.name for file in tmp_path.iterdir()] == ["tuning.json"]
    save_plan(tmp_path, model, MEASURED)  # no measurement on eight cores yields this plan
    before = (tmp_path / "tuning.json").read_bytes()
    assert plan_on(tmp_path, model) == MEASURED
    assert plan_on(tmp_path, model, slice_tokens=77) == ForwardPlan(1, 3, 2048, 77)
    assert (tmp_path / "tuning.json").read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [{"cores": 4}, {"torch": "1.0"}, {"architecture": "OtherModel"}, {"hidden_size": 7}, {"layers": 99},
     {"processor": "other"}, {"machine": "riscv"}, {"dtype": "torch.bfloat16"}],
)  # fmt: skip
def test_a_plan_saved_for_another_machine_or_model_is_measured_again(
    tmp_path: Path, model: RewardModel, other: dict[str, Any]
) -> None:
    save_plan(tmp_path, model, MEASURED, **other)
    plan = plan_on(tmp_path, model)
    assert plan.workers * plan.threads == 8
    assert saved_record(tmp_path)["measured_on"] == fingerprint(model, CORES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"plan": {}}',
        '{"plan": null, "measured_on": FINGERPRINT}',
        '{"plan": {"workers": 2}, "measured_on": FINGERPRINT}',
        "\xff",
    ],
)
def test_an_unreadable_plan_file_is_ignored_with_a_warning(
    tmp_path: Path, model: RewardModel, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tuning.json"
    text = text.replace("FINGERPRINT", json.dumps(fingerprint(model, CORES)))
    file.write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        plan = plan_on(tmp_path, model)
    assert f"{file} is ignored" in caplog.text
    assert ForwardPlan(**saved_record(tmp_path)["plan"]) == plan


def test_an_unwritable_data_directory_only_causes_a_warning(
    tmp_path: Path, model: RewardModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        plan = plan_on(tmp_path / "nowhere", model)
    assert plan.workers * plan.threads == 8
    assert "cannot be written" in caplog.text
    assert not (tmp_path / "nowhere").exists()


def test_every_split_of_the_cores_is_measured_and_then_every_batch_size(model: RewardModel) -> None:
    measured = list(measure_plans(model, CORES, QUICK))
    splits = [(m.plan.workers, m.plan.threads) for m in measured[:4]]
    assert splits == [(1, 8), (2, 4), (4, 2), (8, 1)]
    assert {m.plan.batch_tokens for m in measured[:4]} == {1024}
    best = best_split(measured[:4])
    assert [(m.plan.workers, m.plan.threads, m.plan.batch_tokens) for m in measured[4:]] == [
        (best.workers, best.threads, 512),
        (best.workers, best.threads, 2048),
    ]
    assert all(m.tokens_per_s > 0 for m in measured)


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({(1, 4, 1024): 100, (2, 2, 1024): 99, (4, 1, 1024): 90}, (2, 2, 1024)),  # close: more workers
        ({(1, 4, 1024): 100, (2, 2, 1024): 90, (4, 1, 1024): 80}, (1, 4, 1024)),
        ({(4, 1, 1024): 100, (4, 1, 512): 109, (4, 1, 2048): 109}, (4, 1, 1024)),  # close: the default
        ({(4, 1, 1024): 100, (4, 1, 512): 111, (4, 1, 2048): 112}, (4, 1, 2048)),
        ({(1, 4, 1024): 101, (4, 1, 1024): 100, (4, 1, 512): 115}, (4, 1, 512)),
    ],
)
def test_among_similar_plans_the_most_workers_and_the_default_batch_size_are_chosen(
    rates: dict[tuple[int, int, int], float], chosen: tuple[int, int, int]
) -> None:
    results = [Measured(ForwardPlan.of_single_batches(*plan), rate) for plan, rate in rates.items()]
    assert best_plan(results, MEASURED) == ForwardPlan.of_single_batches(*chosen)
    assert best_plan([], MEASURED) == MEASURED


def test_a_model_too_slow_to_measure_gets_the_default_plan(tmp_path: Path, model: RewardModel) -> None:
    assert list(measure_plans(model, CORES, TOO_SLOW)) == []
    assert plan_on(tmp_path, model, timing=TOO_SLOW) == plan_on(tmp_path, model, tune=False)


@pytest.mark.slow
def test_metarm_tune_prints_its_measurements_and_saves_the_best_plan(
    tmp_path: Path, checkpoint: Kinds, model: RewardModel
) -> None:
    publish(tmp_path, checkpoint("bert"))
    one_core = f"import os, sys; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); "
    tune = "os.execv(sys.executable, [sys.executable, '-m', 'metarm.commands.main', 'tune'])"
    command = [sys.executable, "-c", one_core + tune]
    with Process(command, tmp_path / "output.txt", {"METARM_DATA_DIR": str(tmp_path)}) as process:
        assert process.wait(180) == 0, process.output
        output = process.output
    assert "v000001, encoder route, 1 cores" in output
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+) +(\d+)$", output, re.MULTILINE)
    assert [row[:3] for row in rows] == [("1", "1", "1024"), ("1", "1", "512"), ("1", "1", "2048")]
    assert all(int(row[3]) > 0 for row in rows)
    plan = ForwardPlan(**saved_record(tmp_path)["plan"])
    assert (plan.workers, plan.threads) == (1, 1)
    assert f"chosen: 1 workers, 1 cores each, {plan.batch_tokens} tokens → {tmp_path / 'tuning.json'}" in output
    saved = saved_record(tmp_path)
    assert plan_on(tmp_path, model, 1, TOO_SLOW) == plan  # a new measurement would yield the default
    assert saved_record(tmp_path) == saved


@pytest.mark.slow
def test_metarm_tune_fails_with_a_message_if_there_is_no_version(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metarm", "tune"]
    with Process(command, tmp_path / "output.txt", {"METARM_DATA_DIR": str(tmp_path)}) as process:
        assert process.wait() == 1
        assert "has no version yet" in process.output
    assert not (tmp_path / "tuning.json").exists()


@pytest.mark.slow
def test_a_server_measures_its_plan_on_first_start_and_then_scores(
    tmp_path: Path, checkpoint: Kinds, redis_process: RedisProcess
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with service(tmp_path, redis_process.url, METARM_TUNE="true") as process:
        process.wait_ready()
        assert set(saved_record(tmp_path)["plan"]) == {"workers", "threads", "batch_tokens", "slice_tokens"}
        assert process.http.post("/score", json={"groups": [GROUP]}).status_code == 200
