from __future__ import annotations

import itertools

import numpy as np
import pytest

from simulation.decisions import DECISION, FAMILIES
from simulation.families import IN_DISTRIBUTION
from simulation.optimise import Pressure, reinforce_update
from simulation.policy import Policy, layout, theta_size
from simulation.prompts import Split, draw_tasks

TASKS = draw_tasks(Split.TRAINING, 11, np.random.default_rng(0))


def moved(policy: Policy, seed: int, size: float = 0.5) -> Policy:
    return Policy(policy.theta + np.random.default_rng(seed).normal(0, size, theta_size()))


def test_probabilities_of_every_decision_sum_to_one() -> None:
    policy = Policy.initial(1)
    for context in ({"family": family, "effort": "careful", "answer": "near"} for family in FAMILIES):
        for decision in DECISION.values():
            assert np.exp(policy.log_probs(decision, context)).sum() == pytest.approx(1.0)


def test_samples_follow_the_stated_probabilities() -> None:
    policy, rng = Policy.initial(2), np.random.default_rng(3)
    sampled = policy.sample(TASKS[0], 3000, rng)
    context = {"family": TASKS[0].family}
    for option, stated in zip(
        DECISION["effort"].options, np.exp(policy.log_probs(DECISION["effort"], context)), strict=True
    ):
        seen = np.mean([response.draft.effort == option for response in sampled])
        assert seen == pytest.approx(stated, abs=0.03)


def test_gradient_of_log_prob_matches_finite_differences() -> None:
    policy = moved(Policy.initial(0), 4)
    responses = [policy.sample(task, 1, np.random.default_rng(5))[0] for task in TASKS[:3]]
    weights = [0.7, -1.3, 0.4]
    gradient = policy.score_gradient(responses, weights)

    def total(theta: np.ndarray) -> float:
        return sum(w * Policy(theta).log_prob(r) for w, r in zip(weights, responses, strict=True))

    for at in range(0, theta_size(), 7):
        step = np.zeros(theta_size())
        step[at] = 1e-5
        slope = (total(policy.theta + step) - total(policy.theta - step)) / 2e-5
        assert gradient[at] == pytest.approx(slope, abs=1e-6)


@pytest.mark.slow
def test_updates_follow_the_gradient_of_the_expected_reward() -> None:
    """The reward depends on `effort` alone, so its expectation and gradient are known in closed form."""
    policy, task, rng = Policy.initial(0), TASKS[0], np.random.default_rng(6)
    value = {"careless": 0.0, "ordinary": 1.0, "careful": 3.0}
    groups = [policy.sample(task, 6, rng) for _ in range(1500)]
    rewards = [[value[r.draft.effort] for r in group] for group in groups]
    pressure = Pressure(learning_rate=1.0, kl_weight=0.0, standardise=False)
    estimate = reinforce_update(policy, policy, groups, rewards, pressure).theta - policy.theta

    effort = DECISION["effort"]
    p = np.exp(policy.log_probs(effort, {"family": task.family}))
    values = np.array([value[str(option)] for option in effort.options])
    exact = p * (values - p @ values)
    for key in (("effort", "", ""), ("effort", "family", task.family)):
        np.testing.assert_allclose(estimate[layout()[key]], exact, atol=0.04)
    untouched = estimate[layout()["praise", "", ""]]
    assert abs(untouched[0]) < 0.08


def test_kl_penalty_pulls_towards_the_reference() -> None:
    reference = Policy.initial(0)
    policy, rng = moved(reference, 7, 0.3), np.random.default_rng(8)
    before = policy.kl(reference, list(IN_DISTRIBUTION))
    pressure = Pressure(learning_rate=0.5, kl_weight=1.0, standardise=False)
    for _ in range(12):
        groups = [policy.sample(task, 12, rng) for task in TASKS]
        policy = reinforce_update(policy, reference, groups, [[0.0] * 12] * len(groups), pressure)
    assert policy.kl(reference, list(IN_DISTRIBUTION)) < 0.7 * before


def test_kl_is_the_mean_log_ratio_of_samples() -> None:
    reference = Policy.initial(0)
    policy, task = moved(reference, 9, 0.3), TASKS[2]
    sampled = policy.sample(task, 3000, np.random.default_rng(10))
    ratios = [policy.log_prob(r) - reference.log_prob(r) for r in sampled]
    error = np.std(ratios) / np.sqrt(len(ratios))
    assert policy.kl(reference, [task.family]) == pytest.approx(np.mean(ratios), abs=4 * error)
    assert policy.kl(policy, [task.family]) == pytest.approx(0.0, abs=1e-12)


def test_entropy_is_the_mean_surprise_of_samples() -> None:
    policy, task = Policy.initial(0), TASKS[4]
    surprise = [-policy.log_prob(r) for r in policy.sample(task, 3000, np.random.default_rng(11))]
    error = np.std(surprise) / np.sqrt(len(surprise))
    assert policy.entropy([task.family]) == pytest.approx(np.mean(surprise), abs=4 * error)


def test_a_policy_refuses_non_finite_parameters() -> None:
    with pytest.raises(ValueError, match="finite"):
        Policy(np.full(theta_size(), np.nan))


def test_initial_policies_of_different_seeds_differ_a_little() -> None:
    pairs = itertools.combinations([Policy.initial(seed) for seed in range(3)], 2)
    assert all(0.05 < a.kl(b, list(IN_DISTRIBUTION)) < 1.0 for a, b in pairs)
