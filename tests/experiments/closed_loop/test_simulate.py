from __future__ import annotations

from pathlib import Path

import pytest

from experiments.closed_loop import simulate
from experiments.closed_loop.plan import QUICK_ARMS, RATE_FACTORS, SWEPT, Arm, all_arms, arm_named, swept_name
from experiments.closed_loop.records import read_study
from tests.experiments.closed_loop.tiny_plan import TINY_PLAN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "fixed,sgdd"], "there is no arm 'sgdd'"),
        (["--arms", "fixed,sgd@fast"], "'fast' is not a rate"),
        (["--served", "--arms", "negative"], "takes no rate below 0"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--rounds", "1"], "--rounds must be at least 2"),
        (["--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_options_that_cannot_run_are_one_clear_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate.main(["--out", str(tmp_path / "out"), *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_arms_have_distinct_names_and_include_the_quick_and_the_swept_ones() -> None:
    arms = all_arms()
    assert all(arm.name == name for name, arm in arms.items())
    assert set(QUICK_ARMS) <= set(arms)
    rates = [(arms[swept_name(factor)].retrain or {})["ascent_rate"] for factor in RATE_FACTORS]
    assert rates == [pytest.approx(factor * rates[1]) for factor in RATE_FACTORS]
    assert SWEPT in arms


def test_any_ascent_at_any_rate_is_an_arm() -> None:
    assert arm_named("joint@0.25") == Arm("joint@0.25", {"ascent": "joint", "ascent_rate": 0.25})
    assert arm_named("sgd") == all_arms()["sgd"]


@pytest.mark.slow
def test_simulate_prints_its_tables_and_writes_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "StudyPlan", lambda: TINY_PLAN)
    out = tmp_path / "out"
    arms = ["fixed", "none", "joint@0.5"]
    asked = ["--seeds", "1", "--first-seed", "7", "--rounds", "2", "--arms", ",".join(arms)]
    assert simulate.main(["--out", str(out), *asked]) == 0
    captured = capsys.readouterr()
    assert [name for name in ("C1", "C2", "C6") if f"\n{name}  " not in captured.out] == []
    assert captured.err == ""  # no progress bar without a terminal
    study = read_study(out / "study.json")
    assert [(run.seed, run.arm) for run in study.runs] == [(7, arm) for arm in arms]
    assert study.arms["joint@0.5"]["ascent_rate"] == 0.5
