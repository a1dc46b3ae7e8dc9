from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.closed_loop.plan import Arm, all_arms
from experiments.closed_loop.play import play
from experiments.closed_loop.records import ArmRun, RetrainRecord, read_run, write_run
from experiments.closed_loop.reward_models import in_requests, retrain_record
from metarm.errors import ConfigurationError
from simulation.optimise import Groups
from simulation.prompts import Split, split_of
from simulation.rounds import lengths_of
from tests.experiments.closed_loop.tiny_plan import TINY_PLAN

PLAN = replace(TINY_PLAN, rounds=3, prompts=3, best_of=3, best_of_tries=2)


class Longer:
    """A simple reward model: length, whose sign every retrain changes."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.version = "v000001"
        self.kept: list[Groups] = []
        self.steps: list[int] = []
        self.retrained: list[tuple[Mapping[str, Any], int]] = []
        self._accepts = accepts

    def score(self, groups: Groups) -> list[list[float]]:
        sign = 1.0 if int(self.version[1:]) % 2 else -1.0
        return [[sign * value for value in group] for group in lengths_of(groups)]

    def reward(self, groups: Groups, step: int) -> list[list[float]]:
        self.kept.append(groups)
        self.steps.append(step)
        return self.score(groups)

    def retrain(self, options: Mapping[str, Any]) -> RetrainRecord:
        self.retrained.append((options, len(self.kept)))
        candidate = f"v{int(self.version[1:]) + 1:06d}"
        if self._accepts:
            self.version = candidate
        return retrain_record(candidate, self._accepts, [], {"held_out_accuracy": 0.7}, [])


def run(arm: str, models: Longer | None = None, seed: int = 0) -> tuple[ArmRun, Longer]:
    models = models or Longer()
    return replace(play(PLAN, all_arms()[arm], seed, models), seconds=0.0), models


def test_every_round_is_measured_and_every_round_but_the_last_is_followed_by_a_retrain() -> None:
    found, models = run("none")
    assert [record.round for record in found.rounds] == [0, 1, 2, 3]
    assert [record.retrain is not None for record in found.rounds] == [False, True, True, False]
    assert [kept for _, kept in models.retrained] == [2, 4]  # each retrain follows two logged updates per round
    assert [record.sets["in"].before.version for record in found.rounds] == [
        "v000001",
        "v000001",
        "v000002",
        "v000003",
    ]
    assert len(found.steps) == PLAN.rounds * PLAN.steps
    assert models.steps == list(range(PLAN.rounds * PLAN.steps))


def test_the_fixed_arm_never_retrains_and_keeps_the_best_of_n() -> None:
    found, models = run("fixed")
    assert models.retrained == []
    assert np.shape(found.best_of_gold) == (PLAN.measured_prompts, PLAN.best_of_tries)
    assert all(record.sets["in"].after is None for record in found.rounds)


def test_all_arms_of_a_seed_are_the_same_run_until_the_first_retrain() -> None:
    one, other = run("none")[0], run("sgd")[0]
    assert one.steps[: PLAN.steps] == other.steps[: PLAN.steps]
    assert one.rounds[1].sets["in"].gold == other.rounds[1].sets["in"].gold
    assert one.rounds[1].kl == other.rounds[1].kl
    assert run("none", seed=1)[0].steps[0] != one.steps[0]


def test_a_rejected_candidate_leaves_its_parent_in_place() -> None:
    found, models = run("sgd", Longer(accepts=False))
    assert models.version == "v000001"
    of_first = found.rounds[1]
    assert of_first.retrain is not None
    assert not of_first.retrain.accepted
    assert of_first.sets["in"].after == of_first.sets["in"].before


def test_options_of_an_arm_override_those_of_the_plan_and_each_retrain_has_its_seed() -> None:
    options = [options for options, _ in run("joint", seed=3)[1].retrained]
    assert options[0] == {**PLAN.retrain, **(all_arms()["joint"].retrain or {}), "seed": 301}
    assert [each["seed"] for each in options] == [301, 302]


def test_the_in_distribution_arm_logs_the_initial_policys_answers_to_the_same_prompts() -> None:
    def prompts(models: Longer) -> list[list[str]]:
        return [[group[0].task.prompt for group in groups] for groups in models.kept]

    control, own = run("in-distribution")[1], run("shared_adam")[1]
    assert control.steps == own.steps[: (PLAN.rounds - 1) * PLAN.steps]
    assert prompts(control) == prompts(own)[: (PLAN.rounds - 1) * PLAN.steps]
    of_second_round = [np.mean(lengths_of(models.kept[3])) for models in (control, own)]
    assert (
        of_second_round[0] < of_second_round[1]
    )  # round 1 rewarded length; the initial policy does not change


def test_measured_prompts_are_held_out_from_optimisation() -> None:
    models = run("none")[1]
    prompts = {group[0].task.prompt for groups in models.kept for group in groups}
    assert {split_of(prompt) for prompt in prompts} == {Split.TRAINING}


def test_the_same_seed_and_scores_give_the_same_record() -> None:
    assert run("sgd")[0] == run("sgd")[0]


def test_scores_are_requested_in_fixed_batches_and_rounded() -> None:
    sizes: list[int] = []

    def score(groups: Groups) -> list[list[float]]:
        sizes.append(len(groups))
        return [[0.123456789] for _ in groups]

    models = Longer()
    play(replace(PLAN, prompts=19), Arm("a", None), 0, models)
    assert list(in_requests(models.kept[0], score)) == [[0.1235]] * 19
    assert sizes == [8, 8, 3]


def test_a_run_is_read_from_its_file_as_it_was_written(tmp_path: Path) -> None:
    found = run("none")[0]
    write_run(found, tmp_path / "deep" / "run.json")
    assert read_run(tmp_path / "deep" / "run.json") == found


def test_the_error_names_a_file_that_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"seed": 1}')
    with pytest.raises(ConfigurationError, match=r"run\.json is not what"):
        read_run(tmp_path / "run.json")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_run(tmp_path / "missing.json")
