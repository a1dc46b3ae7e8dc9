"""Each claim on synthetic studies: yes, no and unclear."""

from __future__ import annotations

from functools import partial

import pytest

from experiments.closed_loop.claims import claims
from experiments.closed_loop.intervals import Answer
from experiments.closed_loop.records import ArmRun, Study
from tests.experiments.closed_loop.synthetic_studies import synthetic_run, synthetic_study

SEEDS = 8


def answer(study: Study, name: str, arm: str) -> Answer:
    (found,) = [claim for claim in claims(study) if (claim.name, claim.arm) == (name, arm)]
    return found.answer


def by_seed(name: str, seed: int, *, argument: str, values: tuple[float, float]) -> ArmRun:
    """A run whose figure is `values[0]` for even seeds and `values[1]` for odd ones."""
    options = {argument: values[seed % 2]}
    return synthetic_run(name, seed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variance", "gold_variance", "expected"),
    [
        ((4.0, 2.0, 1.0, 0.5), (6.0,) * 4, "yes"),
        ((4.0, 4.5, 5.0, 6.0), (6.0,) * 4, "no"),
        ((4.0, 2.0, 1.0, 0.5), (6.0, 3.0, 1.0, 0.2), "no"),  # it falls because responses become more alike
    ],
)
def test_the_premise_needs_a_fall_that_gold_does_not_explain(
    variance: tuple[float, ...], gold_variance: tuple[float, ...], expected: Answer
) -> None:
    made = partial(synthetic_run, variance=variance, gold_variance=gold_variance)
    assert answer(synthetic_study(SEEDS, fixed=made), "C1", "fixed") == expected


@pytest.mark.parametrize(
    ("argument", "claim", "values", "expected"),
    [
        ("held_out", "C2", (0.702, 0.702), "yes"),
        ("held_out", "C2", (0.65, 0.65), "no"),
        ("held_out", "C2", (0.66, 0.75), "unclear"),
        ("after", "C3", (2.0, 2.0), "yes"),
        ("after", "C3", (0.5, 0.5), "no"),
        ("after", "C3", (0.5, 2.0), "unclear"),
        ("accuracy", "C4", (0.65, 0.65), "yes"),
        ("accuracy", "C4", (0.55, 0.55), "no"),
        ("accuracy", "C4", (0.55, 0.65), "unclear"),
    ],
)
def test_a_variant_is_judged_against_vanilla_seed_by_seed(
    argument: str, claim: str, values: tuple[float, float], expected: Answer
) -> None:
    made = partial(by_seed, argument=argument, values=values)
    study = synthetic_study(SEEDS, fixed=synthetic_run, none=synthetic_run, sgd=made)
    assert answer(study, claim, "sgd") == expected


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ((0.0, 0.3, 2.0, 0.3), "yes"),
        ((0.0, 0.3, 1.0, 2.0), "unclear"),  # the best round is the last one, so there is no dip
        ((0.0, 2.0, 0.3, 0.3), "unclear"),
    ],
)
def test_win_rates_must_rise_and_then_dip(gold: tuple[float, ...], expected: Answer) -> None:
    study = synthetic_study(SEEDS, sgd=partial(synthetic_run, gold=gold))
    assert answer(study, "C5", "sgd") == expected


def test_the_best_round_must_beat_both_the_fixed_and_the_vanilla_model() -> None:
    better, worse = (0.0, 2.0, 4.0, 3.0), (0.0, 0.1, 0.2, 0.1)
    made = partial(synthetic_run, gold=better, out_gold=worse)
    study = synthetic_study(SEEDS, fixed=synthetic_run, none=synthetic_run, sgd=made)
    assert answer(study, "C6", "sgd") == "yes"
    assert answer(study, "C7", "sgd") == "no"
    only_fixed = synthetic_study(
        SEEDS, fixed=partial(synthetic_run, gold=worse), none=partial(synthetic_run, gold=better), sgd=made
    )
    assert answer(only_fixed, "C6", "sgd") == "unclear"
    same = synthetic_study(SEEDS, fixed=synthetic_run, none=synthetic_run, sgd=synthetic_run)
    assert answer(same, "C6", "sgd") == "unclear"


@pytest.mark.parametrize(
    ("own", "twice", "expected"),
    [(2.0, (2.0, 2.0), "yes"), (2.0, (0.2, 0.2), "no"), (0.4, (2.0, -0.3), "unclear")],
)
def test_a_flat_sweep_means_that_the_rate_hardly_changes_wins(
    own: float, twice: tuple[float, float], expected: Answer
) -> None:
    def at(levels: tuple[float, float], name: str, seed: int) -> ArmRun:
        return synthetic_run(name, seed, gold=(0.0, -1.0, levels[seed % 2], -1.0))

    same = partial(at, (own, own))
    arms = {"sgd_times_0_2": same, "sgd": same, "sgd_times_2": partial(at, twice)}
    assert answer(synthetic_study(SEEDS, **arms), "C8", "sgd") == expected


def test_with_three_seeds_every_answer_is_unclear() -> None:
    study = synthetic_study(3, fixed=synthetic_run, none=synthetic_run, sgd=partial(synthetic_run, after=9.0))
    assert {claim.answer for claim in claims(study)} == {"unclear"}


def test_a_study_without_vanilla_makes_no_claim_about_variants() -> None:
    study = synthetic_study(SEEDS, fixed=synthetic_run, sgd=synthetic_run)
    assert {claim.name for claim in claims(study)} == {"C1", "C5"}
