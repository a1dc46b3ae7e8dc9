from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.learners import Scores, grpo, swap


def scores(seed: int, prompts: int = 30, responses: int = 6) -> Scores:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(prompts, responses)) + rng.normal(size=(prompts, 1))


def test_a_swap_to_equal_scores_has_no_effects() -> None:
    old = scores(0)
    seen = swap(old, old, old, old)
    assert (seen.jump, seen.flips, seen.informed, seen.size, seen.grpo_flips) == (0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize("shift", [-2.0, 0.5])
def test_a_shift_of_all_scores_changes_ppo_advantages_and_not_those_of_grpo(shift: float) -> None:
    old = scores(1)
    seen = swap(old, old + shift, old, old + shift)
    assert seen.jump == pytest.approx(shift / old.std())
    before = old - old.mean()
    low, high = sorted((-shift, 0.0))
    assert seen.flips == np.mean(
        (before > low) & (before < high)
    )  # the advantages that the shift moves across zero
    assert seen.flips > 0.1
    assert seen.informed == seen.grpo_flips == 0.0


def test_a_change_of_scale_changes_ppo_advantages_and_not_those_of_grpo() -> None:
    old = scores(2)
    old -= old.mean()
    seen = swap(old, 3 * old, old, 3 * old)
    assert seen.size == pytest.approx(3.0)
    assert seen.flips == seen.informed == seen.grpo_flips == 0.0


def test_negated_scores_flip_every_advantage() -> None:
    old = scores(3)
    seen = swap(old, -old, old, -old)
    assert seen.informed == seen.grpo_flips == 1.0


def test_the_running_mean_covers_the_recent_scores() -> None:
    old, recent = scores(4), scores(5) + 1.0
    seen = swap(old, old, recent, recent)
    assert seen.size == 1.0
    new = old + 1.0
    expected = np.mean((old - recent.mean()) * (new - recent.mean()) < 0)
    assert swap(old, new, recent, recent).flips == expected


def test_grpo_advantages_are_normalised_within_every_group() -> None:
    advantages = grpo(scores(6))
    assert np.allclose(advantages.mean(axis=1), 0)
    assert np.allclose(advantages.std(axis=1), 1)
    assert np.allclose(grpo(np.ones((2, 3))), 0)


def test_the_jump_of_scores_without_spread_is_undefined() -> None:
    constant = np.ones((3, 4))
    assert math.isnan(swap(constant, constant, scores(7), scores(7)).jump)
