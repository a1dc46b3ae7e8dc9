from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.hacked.learner import Learner, Update
from experiments.hacked.plan import DrillPlan
from metarm.records import ScoredGroup
from simulation.optimise import Groups
from simulation.prompts import Split, split_of
from simulation.rounds import gold_of, lengths_of

PLAN = DrillPlan(before=3, after=3, probed_prompts=5)


def by(
    scores: Callable[[Groups], list[list[float]]], version: str = "v000001"
) -> Callable[..., list[ScoredGroup]]:
    """A reward in the form of a server's answers."""

    def reward(groups: Groups, _step: int) -> list[ScoredGroup]:
        rows = scores(groups)
        return [ScoredGroup("0", tuple(row), (1,) * len(row), (False,) * len(row), version) for row in rows]

    return reward


def backwards(groups: Groups) -> list[list[float]]:
    return [[-value for value in row] for row in gold_of(groups)]


def test_policies_with_equal_scores_stay_equal_and_others_diverge() -> None:
    seen: list[int] = []
    one, other = Learner(PLAN), Learner(PLAN)
    first, policy = one.optimise(one.initial, range(3), by(gold_of), lambda: seen.append(0))
    assert other.optimise(other.initial, range(3), by(gold_of), lambda: None)[0] == first
    assert len(seen) == 3
    then = range(3, 6)
    again = [
        one.optimise(policy, then, by(scores), lambda: None)[0] for scores in (gold_of, gold_of, backwards)
    ]
    assert again[0] == again[1]
    assert again[0][0].gold == again[2][0].gold  # the responses do not depend on their own scores
    assert again[0][1] != again[2][1]


def test_an_update_records_the_scoring_versions_and_the_quality_of_the_scores() -> None:
    learner = Learner(PLAN)

    def measured(scores: Callable[[Groups], list[list[float]]]) -> Update:
        (update,), _ = learner.optimise(learner.initial, range(1), by(scores, "v000007"), lambda: None)
        return update

    right, wrong, long = measured(gold_of), measured(backwards), measured(lengths_of)
    assert right.versions == ["v000007"] * PLAN.world.prompts
    assert (right.accuracy, wrong.accuracy) == (1.0, 0.0)
    assert right.spread == pytest.approx(wrong.spread)
    assert long.length_correlation == pytest.approx(1.0)
    assert right.gold == wrong.gold


def test_the_probe_has_prompts_that_nothing_trains_on() -> None:
    probe = Learner(PLAN).probe()
    assert len(probe) == PLAN.probed_prompts
    assert {split_of(group[0].task.prompt) for group in probe} == {Split.EVALUATION}
    assert Learner(PLAN).probe() == probe
