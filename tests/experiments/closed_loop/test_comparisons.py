from __future__ import annotations

import pytest

from experiments.closed_loop import comparisons as c
from tests.experiments.closed_loop.synthetic_studies import synthetic_run, synthetic_study


def test_all_responses_to_a_prompt_are_compared_and_small_gaps_are_ties() -> None:
    outcome = c.compare([[1.0, 2.0]], [[1.1, 5.0]])  # gaps -.1, -4, .9, -3
    assert (outcome.win, outcome.tie, outcome.lose) == (0.25, 0.25, 0.5)
    assert outcome.margin == -0.25


def test_a_policy_ties_with_itself_on_average() -> None:
    run = synthetic_run("none", 0)
    assert c.against(run, run, 2).margin == pytest.approx(0.0)


def test_spread_is_normalised_by_the_same_versions_spread_on_initial_responses() -> None:
    run = synthetic_run("none", 0, after=1.0)
    assert c.spread_to_first(run) == pytest.approx(0.5, rel=0.05)  # √(1 / 4)


def test_a_model_with_equal_scores_has_the_smallest_spread() -> None:
    collapsed = synthetic_run("sgd", 0, after=0.0)
    assert c.spread_to_first(collapsed) == pytest.approx(c.SMALLEST_SPREAD / 2.0)


def test_the_best_round_of_a_seed_is_chosen_on_the_other_seeds() -> None:
    lucky = synthetic_run("none", 0, gold=(0.0, 9.0, 1.0, 1.0))
    others = {seed: synthetic_run("none", seed, gold=(0.0, 1.0, 2.0, 1.5)) for seed in (1, 2, 3)}
    assert c.peak_rounds({0: lucky, **others})[0] == 2
    assert c.peak_rounds({0: lucky}) == {0: 1}


def test_a_candidate_with_non_finite_scores_has_the_accuracy_of_chance() -> None:
    study = synthetic_study(1, none=synthetic_run)
    run = study.runs[0]
    retrain = run.rounds[1].retrain
    assert retrain is not None
    object.__setattr__(retrain, "held_out_accuracy", None)
    other = run.rounds[2].retrain
    assert other is not None
    assert other.held_out_accuracy is not None
    assert c.held_out_accuracy(run) == pytest.approx((0.5 + other.held_out_accuracy) / 2)


def test_rejected_candidates_are_counted() -> None:
    assert c.rejected(synthetic_run("sgd", 0, accepted=False)) == 2
    assert c.rejected(synthetic_run("sgd", 0)) == 0


def test_arms_that_never_retrain_are_not_compared_with_vanilla() -> None:
    study = synthetic_study(2, fixed=synthetic_run, none=synthetic_run, sgd=synthetic_run)
    assert c.retrained_arms(study) == ["none", "sgd"]
