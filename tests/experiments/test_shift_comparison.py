from __future__ import annotations

import numpy as np
import pytest

from experiments.shifted.comparison import Bootstrap, Gaps, PairSet

PROMPTS, PAIRS, SEEDS = 30, 120, 3
STRATA = np.zeros(PROMPTS, dtype=bool)


def _sets() -> dict[str, PairSet]:
    belonging = np.arange(PAIRS) % PROMPTS
    return {"id": PairSet(belonging, np.arange(PAIRS) % 2 == 0), "groups": PairSet(belonging, None)}


def _gaps(mean: float, seed: int) -> Gaps:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(mean, 1.0, PAIRS) for name in ("id", "groups")}


def test_a_row_with_the_scores_of_vanilla_has_no_change_in_any_resample() -> None:
    bootstrap = Bootstrap(_sets(), STRATA, SEEDS)
    row = bootstrap.figures([_gaps(0.3, seed) for seed in range(SEEDS)])
    for estimate in bootstrap.estimates(row, row).values():
        assert (estimate.change, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_a_change_is_the_mean_over_seeds_of_the_difference_from_vanilla_of_that_seed() -> None:
    bootstrap = Bootstrap(_sets(), STRATA, SEEDS)
    ours = [_gaps(0.8, seed) for seed in range(SEEDS)]
    theirs = [_gaps(0.2, seed + 10) for seed in range(SEEDS)]
    found = bootstrap.estimates(bootstrap.figures(ours), bootstrap.figures(theirs))["id", "accuracy"]
    changes = [
        float((one["id"] > 0).mean() - (other["id"] > 0).mean())
        for one, other in zip(ours, theirs, strict=True)
    ]
    assert found.change == pytest.approx(sum(changes) / SEEDS)
    assert found.value == pytest.approx(np.mean([(one["id"] > 0).mean() for one in ours]))
    assert found.low < found.change < found.high


def test_pairs_of_one_prompt_are_resampled_together() -> None:
    """Where all pairs of a prompt are equal, four pairs per prompt give the same interval as one."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.5, 1, PROMPTS), rng.normal(0, 1, PROMPTS)
    widths = []
    for copies in (1, PAIRS // PROMPTS):
        pairs = PairSet(np.tile(np.arange(PROMPTS), copies), np.tile(np.arange(PROMPTS) % 2 == 0, copies))
        bootstrap = Bootstrap({"id": pairs}, STRATA, 1)
        row, vanilla = ([{"id": np.tile(gaps, copies)}] for gaps in (ours, theirs))
        found = bootstrap.estimates(bootstrap.figures(row), bootstrap.figures(vanilla))["id", "accuracy"]
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0])


def test_seeds_are_resampled_too() -> None:
    """With one prompt, only the seeds vary between resamples."""
    alone = {"id": PairSet(np.zeros(PAIRS, dtype=int), np.arange(PAIRS) % 2 == 0)}
    bootstrap = Bootstrap(alone, np.zeros(1, dtype=bool), 2)
    ours: list[Gaps] = [{"id": np.ones(PAIRS)}, {"id": -np.ones(PAIRS)}]
    theirs: list[Gaps] = [{"id": -np.ones(PAIRS)}] * 2
    found = bootstrap.estimates(bootstrap.figures(ours), bootstrap.figures(theirs))["id", "accuracy"]
    assert (found.change, found.low, found.high) == (0.5, 0.0, 1.0)


def test_sets_without_labels_have_spreads_and_no_accuracy() -> None:
    bootstrap = Bootstrap(_sets(), STRATA, 1)
    measures = {measure for name, measure in bootstrap.figures([_gaps(0.0, 0)]).sample if name == "groups"}
    assert measures == {"spread", "spread_to_reference", "crowded"}


def test_each_split_keeps_its_number_of_prompts_in_every_resample() -> None:
    """Scores are right on one split and wrong on the other: if both were drawn together, the accuracy over both
    would vary."""
    strata = np.arange(PROMPTS) % 3 == 0
    every = {"id": PairSet(np.arange(PROMPTS), np.ones(PROMPTS, dtype=bool))}
    bootstrap = Bootstrap(every, strata, 1)
    right = bootstrap.figures([{"id": np.where(strata, 1.0, -1.0)}]).resampled["id", "accuracy"]
    assert right == pytest.approx(np.full_like(right, 1 / 3))
