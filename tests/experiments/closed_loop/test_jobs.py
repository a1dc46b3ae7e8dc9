"""Runs with tiny real models: in this process, in workers, and over HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.closed_loop.first_model import first_model
from experiments.closed_loop.in_process import InProcess
from experiments.closed_loop.jobs import Job, Mode, run_one, run_study
from experiments.closed_loop.plan import Arm, all_arms
from experiments.closed_loop.records import ArmRun, Study
from simulation.policy import Policy
from simulation.prompts import Split, draw_tasks
from tests.experiments.closed_loop.tiny_plan import TINY_PLAN


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """First models, made once."""
    return tmp_path_factory.mktemp("simulation")


def played(folder: Path, arm: Arm, mode: Mode = "in-process") -> ArmRun:
    return run_one(Job(TINY_PLAN, mode, 5, arm, folder))


def without_curve(run: ArmRun) -> ArmRun:
    """The run without the figures that a server does not report, and without its seconds."""
    rounds = [replace(r, retrain=replace(r.retrain, curve=[]) if r.retrain else None) for r in run.rounds]
    return replace(run, rounds=rounds, seconds=0.0)


def test_a_first_model_is_made_once_and_reproducibly_and_is_named_after_its_inputs(
    folder: Path, tmp_path: Path
) -> None:
    made = first_model(TINY_PLAN, 5, folder / "models")
    weights = made.checkpoint / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert first_model(TINY_PLAN, 5, folder / "models") == made
    assert weights.stat().st_mtime_ns == written
    again = first_model(TINY_PLAN, 5, tmp_path)
    for file in sorted(made.checkpoint.iterdir()):
        assert (again.checkpoint / file.name).read_bytes() == file.read_bytes(), file.name
    assert first_model(TINY_PLAN, 6, folder / "models").checkpoint != made.checkpoint
    other = replace(TINY_PLAN, first_model=replace(TINY_PLAN.first_model, steps=7))
    assert first_model(other, 5, folder / "models").checkpoint != made.checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("arm", [arm for arm in all_arms().values() if arm.retrain], ids=lambda arm: arm.name)
def test_every_arm_retrains_and_continues(folder: Path, arm: Arm) -> None:
    run = played(folder, arm)
    retrain = run.rounds[1].retrain
    assert retrain is not None
    assert [step for step, _ in retrain.curve] == [0, 2, 3]
    expected = retrain.candidate if retrain.accepted else "v000001"
    assert run.rounds[2].sets["in"].before.version == expected


def test_a_candidate_that_the_gate_rejects_changes_nothing(folder: Path, tmp_path: Path) -> None:
    first = first_model(TINY_PLAN, 5, folder / "models")
    # no candidate's accuracy exceeds its parent's by 1
    strict = replace(TINY_PLAN, trainer={**TINY_PLAN.trainer, "gate_tolerance": 0.0})
    models = InProcess(strict, first, tmp_path)
    ruinous = {**TINY_PLAN.retrain, "ascent": "none", "learning_rate": 1.0, "seed": 0}
    retrain = models.retrain(ruinous)
    assert not retrain.accepted
    assert models.version == "v000001"
    assert retrain.reasons


def test_a_failed_run_keeps_version_and_samples_for_the_next(folder: Path, tmp_path: Path) -> None:
    models = InProcess(TINY_PLAN, first_model(TINY_PLAN, 5, folder / "models"), tmp_path)
    rng = np.random.default_rng(0)
    groups = [Policy.initial(5).sample(task, 3, rng) for task in draw_tasks(Split.TRAINING, 4, rng)]
    before = models.reward(groups, 0)
    endless = {**TINY_PLAN.retrain, "ascent": "sgd", "ascent_rate": 1e38, "seed": 0}
    failed = models.retrain(endless)
    assert failed.reasons[0].startswith("failed: step 1")
    assert (models.version, models.score(groups)) == ("v000001", before)
    assert models.retrain({**endless, "ascent_rate": 0.01}).candidate != ""  # on the same four groups


@pytest.mark.slow
def test_finished_runs_are_not_repeated(folder: Path) -> None:
    arms = {name: all_arms()[name] for name in ("fixed", "none")}
    one = run_study(TINY_PLAN, arms, [5], "in-process", 2, folder)
    assert run_study(TINY_PLAN, arms, [5], "in-process", 2, folder) == one  # the seconds included
    assert isinstance(one, Study)
    assert [(run.seed, run.arm) for run in one.runs] == [(5, "fixed"), (5, "none")]


@pytest.mark.slow
def test_an_error_of_a_run_ends_the_study(folder: Path) -> None:
    wrong = {"ascent": "none", "no_such_option": 1}
    with pytest.raises(TypeError, match="no_such_option"):
        run_study(TINY_PLAN, {"wrong": Arm("wrong", wrong)}, [5], "in-process", 1, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shared_adam", "in-distribution"])
def test_a_server_and_the_trainer_called_in_process_give_the_same_figures(folder: Path, name: str) -> None:
    arm = all_arms()[name]
    (served,) = run_study(TINY_PLAN, {name: arm}, [5], "served", 1, folder).runs
    (called,) = run_study(TINY_PLAN, {name: arm}, [5], "in-process", 1, folder).runs
    assert without_curve(served) == without_curve(called)
