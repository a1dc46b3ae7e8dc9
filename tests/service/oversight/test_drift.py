"""Drift figures of random ragged groups against brute force, without a server."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from metarm.records import Message, PolicyStamp
from service.oversight.drift import KEEP_STEPS, KEEP_VERSIONS, Comparison, Drift, Figures, Reference
from service.versions.prompt_share import share_of

REFERENCE = Reference.of({"reference": {"spread": 2.0, "low": -1.0, "high": 1.5}})
NOTHING = Reference.of({})
Group = tuple[list[float], list[int], int]


def random_groups(seed: int, count: int = 60, mean: float = 0.0) -> list[Group]:
    rng = random.Random(seed)
    groups = []
    for _ in range(count):
        size = rng.choice([1, 2, 3, 4, 8, 17])
        scores = [round(mean + rng.gauss(0, 1.5), 1) for _ in range(size)]  # rounded: some tie
        lengths = [rng.randint(1, 500) for _ in range(size)]
        groups.append((scores, lengths, rng.randint(0, size)))
    return groups


def added(groups: list[Group], reference: Reference = REFERENCE) -> Figures:
    total = Figures()
    for group in groups:
        total = total.plus(Figures.of_group(*group, reference))
    return total


@pytest.mark.parametrize("seed", range(5))
def test_drift_figures_equal_a_brute_force_computation(seed: int) -> None:
    groups = random_groups(seed)
    view = added(groups).view(REFERENCE)
    means = [
        np.mean([(a - b) ** 2 for a, b in itertools.combinations(scores, 2)])
        for scores, _, _ in groups
        if len(scores) > 1
    ]
    flat = [score for scores, _, _ in groups for score in scores]
    several = [group for group in groups if len(group[0]) > 1]
    deviations = np.concatenate([np.array(scores) - np.mean(scores) for scores, _, _ in several])
    longer = np.concatenate([np.array(lengths) - np.mean(lengths) for _, lengths, _ in several])
    assert view == {
        "groups": len(groups),
        "compared_groups": len(means),
        "responses": len(flat),
        "spread": pytest.approx(np.sqrt(np.mean(means))),
        "spread_to_reference": pytest.approx(np.sqrt(np.mean(means)) / 2.0),
        "length_correlation": pytest.approx(np.corrcoef(deviations, longer)[0, 1]),
        "truncation_rate": pytest.approx(sum(cut for _, _, cut in groups) / len(flat)),
        "saturated_share": pytest.approx(np.mean([not -1.0 <= score <= 1.5 for score in flat])),
    }


def test_a_large_mean_reward_does_not_reduce_precision() -> None:
    near, far = (added(random_groups(3, mean=mean)) for mean in (0.0, 2.0**30))
    assert far.spread == pytest.approx(near.spread, rel=1e-6)
    assert far.length_correlation == pytest.approx(near.length_correlation, rel=1e-6)


def test_every_group_has_equal_weight_regardless_of_its_size() -> None:
    wide: Group = ([0.0, 4.0], [1, 1], 0)
    narrow: Group = ([0.0] * 64, [1] * 64, 0)
    assert added([wide, narrow]).spread == pytest.approx((4.0**2 / 2) ** 0.5)


def test_single_response_groups_count_only_toward_truncation_and_saturation() -> None:
    view = added([([9.0], [7], 1), ([0.0], [9], 0)]).view(REFERENCE)
    assert (view["groups"], view["compared_groups"]) == (2, 0)
    assert view["spread"] is view["spread_to_reference"] is view["length_correlation"] is None
    assert (view["truncation_rate"], view["saturated_share"]) == (0.5, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_repeated_responses_change_no_figure_over_pairs_but_count_as_responses(seed: int) -> None:
    rng, groups = random.Random(seed), random_groups(seed)
    repeated = Figures()
    for scores, lengths, truncated in groups:
        again = [rng.randrange(len(scores)) for _ in range(rng.randint(1, 9))]
        more = [scores[n] for n in again], [lengths[n] for n in again]
        places = range(len(scores))
        group = [*scores, *more[0]], [*lengths, *more[1]], truncated
        repeated = repeated.plus(Figures.of_group(*group, REFERENCE, places))
    once = added(groups)
    assert (repeated.compared, repeated.spread) == (once.compared, once.spread)
    assert repeated.length_correlation == once.length_correlation
    assert repeated.responses > once.responses
    single = Figures.of_group([9.0] * 4, [7] * 4, 4, REFERENCE, [0])
    assert (single.groups, single.responses, single.truncated, single.saturated) == (1, 4, 4, 4)
    assert (single.compared, single.spread) == (0, None)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({}, "has no reference"),
        ({"reference": None}, "has no reference"),
        ({"reference": {"spread": 1.0}}, "cannot be read"),
        ({"reference": {"spread": None, "low": 0, "high": 1}}, "cannot be read"),
        ({"reference": {"spread": 0.0, "low": 0, "high": 1}}, "has no spread"),
        ({"reference": {"spread": float("nan"), "low": 0, "high": 1}}, "has no spread"),
    ],
)
def test_without_a_usable_reference_dependent_figures_are_null_with_a_reason(
    manifest: dict[str, Any], reason: str
) -> None:
    reference = Reference.of(manifest)
    assert reason in str(reference.missing)
    view = added(random_groups(1), reference).view(reference)
    assert view["spread"] is not None
    assert view["spread_to_reference"] is view["saturated_share"] is None


def test_a_comparison_normalises_each_spread_by_its_own_reference() -> None:
    half, tenfold = (Reference.of({"reference": {"spread": s, "low": 0, "high": 1}}) for s in (2.0, 20.0))
    scores = [0.0, 1.0, 5.0]
    same = Comparison.of_group(scores, [10 * score for score in scores])
    assert same.spread_to_other(half, tenfold) == pytest.approx(1.0)
    assert same.spread_to_other(half, half) == pytest.approx(0.1)
    assert same.spread_to_other(half, NOTHING) is None
    flat = Comparison.of_group([3.0] * 3, scores)
    assert flat.spread_to_other(NOTHING, NOTHING) == 0.0  # in any unit
    assert Comparison.of_group(scores, [3.0] * 3).spread_to_other(half, half) is None
    both = same.plus(flat)
    assert both.groups == 2
    assert both.mean_disagreement == pytest.approx(0.25)


def test_the_disagreement_error_is_the_standard_error_of_the_mean_over_ranked_groups() -> None:
    scores = [0.0, 1.0, 2.0]
    others = [[0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]
    compared = Comparison.of_group([1.0, 1.0], [2.0, 2.0])  # constant scores: no order to compare
    for other in others:
        assert compared.ranked > 1 or compared.disagreement_error is None
        compared = compared.plus(Comparison.of_group(scores, other))
    shares = [0, 1 / 3, 1, 1 / 3]
    assert compared.disagreement_error == pytest.approx(np.std(shares, ddof=1) / 2)
    same = Comparison.of_group(scores, others[1])
    assert same.plus(same).plus(same).disagreement_error == pytest.approx(0, abs=1e-6)


def test_the_newest_policy_steps_are_kept_separately_and_older_steps_are_merged() -> None:
    version = Drift(window_groups=10).of("v000001", {"reference": {"spread": 2.0, "low": -1.0, "high": 1.5}})
    groups = random_groups(7, count=KEEP_STEPS + 5)
    for step, group in enumerate(groups):
        version.add(Figures.of_group(*group, version.reference), PolicyStamp("actor", step))
    version.add(Figures.of_group(*groups[0], version.reference), None)
    assert len(version.steps) == KEEP_STEPS
    assert list(version.steps)[-2:] == [PolicyStamp("actor", KEEP_STEPS + 4), None]
    assert version.older_steps == 6
    assert version.older == added(groups[:6])
    assert version.total.spread == pytest.approx(added([*groups, groups[0]]).spread)


def test_the_window_covers_only_the_newest_groups() -> None:
    version = Drift(window_groups=10).of("v000001", {})
    groups = random_groups(8, count=35)
    assert version.window() == Figures()
    for place, group in enumerate(groups):
        version.add(Figures.of_group(*group, NOTHING), None)
        assert version.window().view(NOTHING) == pytest.approx(
            added(groups[max(0, place - 9) : place + 1], NOTHING).view(NOTHING)
        )
    for group in groups:
        if len(group[0]) > 1:
            version.compare("v000002", {}, Comparison.of_group(group[0], group[0]))
    assert version.compared["v000002"].window().groups == 10
    assert version.compared["v000002"].total.groups == sum(len(scores) > 1 for scores, _, _ in groups)


def test_the_first_window_ends_once_half_of_enough_groups_can_be_compared() -> None:
    version = Drift(window_groups=4).of("v000001", {})
    groups: list[Group] = [([1.0], [1], 0)] * 5 + [([0.0, 1.0], [1, 2], 0), ([0.0, 2.0], [1, 2], 0)]
    for place, group in enumerate(groups):
        version.add(Figures.of_group(*group, NOTHING), None)
        assert version.complete(version.first) == (place == 6)
    first = version.first
    assert (first.groups, first.compared) == (7, 2)
    version.add(Figures.of_group([0.0, 9.0], [1, 2], 0, NOTHING), None)
    assert version.first == first


def test_the_least_recently_scored_versions_are_evicted() -> None:
    drift = Drift(window_groups=10)
    for number in range(KEEP_VERSIONS):
        drift.of(f"v{number:06d}", {})
    drift.of("v000000", {})
    drift.of("v999999", {})
    assert len(drift.versions()) == KEEP_VERSIONS
    assert "v000000" in drift.versions()
    assert "v000001" not in drift.versions()


def test_a_share_selects_that_fraction_of_prompts_deterministically() -> None:
    places = [share_of(f"Prompt {number}?") for number in range(4000)]
    assert all(0 <= place < 1 for place in places)
    assert np.mean([place < 0.1 for place in places]) == pytest.approx(0.1, abs=0.02)
    assert share_of("Prompt 7?") == places[7] == pytest.approx(0.926027, abs=1e-6)
    turns: list[Message] = [{"role": "user", "content": "Hi"}]
    assert share_of(turns) == share_of([{"content": "Hi", "role": "user"}])
    assert share_of(turns) != share_of("Hi")


def test_a_version_keeps_comparisons_with_the_versions_compared_last() -> None:
    drift = Drift(window_groups=5).of("v000200", {})
    group = Comparison.of_group([0.0, 1.0], [1.0, 0.0])
    for number in range(100):
        drift.compare(f"v{number:06d}", {}, group)
        drift.compare("v000000", {}, group)  # the parent, all the time
    assert list(drift.compared) == ["v000097", "v000098", "v000099", "v000000"]
    assert drift.compared["v000000"].total.groups == 101
