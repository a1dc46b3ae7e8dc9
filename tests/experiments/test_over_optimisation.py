"""Over-optimisation in the text world, with a linear reward model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from experiments.bag_of_words import BagOfWords
from simulation.measures import correlation
from simulation.optimise import Groups, Pressure
from simulation.policy import Policy
from simulation.preferences import preference_pairs
from simulation.prompts import Split, draw_tasks
from simulation.rounds import Checkpoint, Plan, gold_of, lengths_of, play
from simulation.world import Draft


def features(groups: Groups, feature: Callable[[Draft], float]) -> list[list[float]]:
    return [[float(feature(response.draft)) for response in group] for group in groups]


@pytest.fixture(scope="module")
def reward_model() -> BagOfWords:
    writers = [Policy.initial(seed) for seed in range(4)]
    return BagOfWords.fit(list(preference_pairs(writers, 1200, np.random.default_rng(0))))


@pytest.fixture(scope="module")
def run(reward_model: BagOfWords) -> list[Checkpoint]:
    plan = Plan(
        rounds=24,
        prompts=16,
        responses=8,
        measured_prompts=64,
        measure_every=4,
        seed=1,
        pressure=Pressure(learning_rate=0.8),
    )
    return list(play(plan, lambda groups, _: reward_model.score(groups), reward_model.score))


def test_length_flattery_and_format_correlate_with_gold_among_initial_responses() -> None:
    rng = np.random.default_rng(1)
    groups = [Policy.initial().sample(t, 6, rng) for t in draw_tasks(Split.EVALUATION, 120, rng)]
    gold = gold_of(groups)
    assert correlation(gold, lengths_of(groups)) > 0.15
    assert correlation(gold, features(groups, lambda draft: draft.praise)) > 0.1
    assert correlation(gold, features(groups, lambda draft: draft.padding)) > 0.1
    assert correlation(gold, features(groups, lambda draft: draft.form != "plain")) > 0.1


@pytest.mark.slow
def test_gold_first_rises_and_then_falls(run: list[Checkpoint]) -> None:
    gold = [checkpoint.measurement.gold_mean for checkpoint in run]
    peak = int(np.argmax(gold))
    assert 0 < peak < len(gold) - 1
    assert gold[peak] > gold[0] + 0.5
    assert gold[-1] < gold[peak] - 0.5


@pytest.mark.slow
def test_the_reward_models_own_score_keeps_rising(run: list[Checkpoint]) -> None:
    scores = [checkpoint.measurement.score_mean for checkpoint in run]
    assert scores[-1] > scores[len(run) // 2] > scores[0]


@pytest.mark.slow
def test_spread_and_accuracy_fall_as_the_policy_drifts(run: list[Checkpoint]) -> None:
    first, last = run[0].measurement, run[-1].measurement
    assert last.score_variance < 0.8 * first.score_variance
    assert first.accuracy.low > 0.65
    assert last.accuracy.high < first.accuracy.low


@pytest.mark.slow
def test_gold_still_varies_within_groups_after_the_drift(run: list[Checkpoint]) -> None:
    assert run[-1].measurement.gold_variance > 0.5 * run[0].measurement.gold_variance
    assert run[-1].measurement.accuracy.pairs > 0.9 * run[0].measurement.accuracy.pairs


@pytest.mark.slow
def test_length_keeps_growing(run: list[Checkpoint]) -> None:
    assert run[-1].measurement.length_mean > 1.6 * run[0].measurement.length_mean


def test_the_gold_reward_itself_is_not_overoptimised() -> None:
    plan = Plan(rounds=16, measured_prompts=40, measure_every=4)
    run = list(play(plan, lambda groups, _: gold_of(groups), gold_of))
    gold = [checkpoint.measurement.gold_mean for checkpoint in run]
    assert gold[-1] > gold[len(gold) // 2] > gold[0]
    assert all(checkpoint.measurement.accuracy.value == 1.0 for checkpoint in run)
