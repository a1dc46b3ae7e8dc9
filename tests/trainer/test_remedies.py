"""Every objection of the gate comes with a remedy that starts from the values of the run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from metarm.figures import PairScores
from tests.trainer.test_gate import DEFAULTS, Scenario, scores
from trainer.gate import Rewards, Verdict, judge
from trainer.settings import TrainerSettings
from trainer.training import TrainOptions

RUN = TrainOptions.of(TrainerSettings(), {}).record()
NONE = {**RUN, "ascent": "none", "ascent_rate": 0.0}
Change = Callable[[Scenario], Rewards]


def pairs_only(before: PairScores, after: PairScores, options: dict[str, Any] | None = RUN) -> Verdict:
    return judge(Rewards(before, []), Rewards(after, []), [], DEFAULTS, options)


def of_recent(change: Callable[[float, int], float]) -> Change:
    return lambda scenario: scenario.changed(lambda r: r, change)


CHANGES: dict[str, Change] = {
    "reversed": lambda scenario: scenario.changed(lambda r: -r),
    "ten times as wide": lambda scenario: scenario.changed(lambda r: 10 * r),
    "a tenth as wide": lambda scenario: scenario.changed(lambda r: r / 10),
    "narrow on samples": of_recent(lambda r, _: 0.3 * r),
    "samples in the reverse order": of_recent(lambda r, _: -r),
    "length": of_recent(lambda _, tokens: 0.02 * tokens),
    "shortness": of_recent(lambda _, tokens: -0.02 * tokens),
    "some length": of_recent(lambda r, tokens: r + 0.012 * tokens),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("options", [RUN, NONE, None], ids=["run", "vanilla", "unknown"])
def test_the_settings_that_the_remedies_name_accept_the_same_candidate(
    change: Change, options: dict[str, Any] | None
) -> None:
    scenario = Scenario(0)
    candidate = change(scenario)
    verdict = judge(scenario.parent, candidate, scenario.lengths, DEFAULTS, options)
    assert verdict.reasons
    assert len(verdict.remedies) == len(verdict.reasons)
    named = [found for text in verdict.remedies for found in re.findall(r"METARM_(GATE_\w+)=([0-9.]+)", text)]
    assert len(named) == len(verdict.reasons)
    accepting: dict[str, Any] = {name.lower(): float(value) for name, value in named}
    thresholds = replace(DEFAULTS, **accepting)
    assert judge(scenario.parent, candidate, scenario.lengths, thresholds).accepted


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_remedy_changes_only_options_that_a_request_and_a_run_know(change: Change) -> None:
    scenario = Scenario(0)
    for text in judge(scenario.parent, change(scenario), scenario.lengths, DEFAULTS, RUN).remedies:
        changed = re.findall(r"(\w+) \S+ instead of", text)
        assert changed
        assert set(changed) <= {field.name for field in fields(TrainOptions)}


def test_a_loss_of_accuracy_calls_for_a_smaller_update_from_the_values_of_the_run() -> None:
    (remedy,) = pairs_only(scores(7, 3), scores(6, 4)).remedies
    assert "learning_rate 5e-06 instead of 1e-05" in remedy
    assert "steps 20 instead of 40" in remedy
    assert "ascent_rate 0.15 instead of 0.3" in remedy
    assert "ascent none instead of conservative" in remedy
    assert "On 10 held-out pairs this loss may be chance (p = 0.5)" in remedy
    assert "METARM_GATE_TOLERANCE=0.1" in remedy


def test_a_loss_beyond_chance_is_not_called_chance() -> None:
    verdict = pairs_only(scores(90, 10), scores(50, 50))
    assert ["beyond chance" in reason for reason in verdict.reasons] == [False, True]
    assert not any("may be chance" in remedy for remedy in verdict.remedies)
    assert "METARM_GATE_SIGNIFICANCE=0 " in verdict.remedies[1]


def test_a_run_without_samples_is_not_told_to_use_fewer() -> None:
    (remedy,) = pairs_only(scores(7, 3), scores(6, 4), NONE).remedies
    assert "ascent" not in remedy


def test_a_run_of_one_step_is_not_told_to_make_fewer() -> None:
    (remedy,) = pairs_only(scores(7, 3), scores(6, 4), {**RUN, "steps": 1}).remedies
    assert "steps" not in remedy


def test_without_the_values_of_the_run_a_remedy_gives_directions() -> None:
    (remedy,) = pairs_only(scores(7, 3), scores(6, 4), None).remedies
    assert remedy.startswith("Retrain with a lower learning_rate, or fewer steps, or a lower ascent_rate, or ")


def test_non_finite_scores_call_for_a_tenth_of_the_rate_and_for_full_precision() -> None:
    broken = PairScores([math.nan] * 10, [0.0] * 10)
    (remedy,) = pairs_only(scores(7, 3), broken, {**RUN, "train_precision": "bfloat16"}).remedies
    assert "learning_rate 1e-06 instead of 1e-05" in remedy
    assert "train_precision float32 instead of bfloat16" in remedy
    assert "METARM_GATE" not in remedy


def test_a_constant_score_calls_for_less_of_what_pulls_rewards_together() -> None:
    verdict = pairs_only(scores(5, 5), scores(0, 0, tied=10), {**RUN, "center_rewards_coefficient": 5.0})
    (remedy,) = verdict.remedies
    assert "center_rewards_coefficient 0 instead of 5" in remedy


def test_wide_rewards_call_for_label_smoothing_and_narrow_ones_do_not() -> None:
    wide, narrow = (
        judge(scenario.parent, CHANGES[name](scenario), scenario.lengths, DEFAULTS, RUN).remedies[0]
        for scenario in [Scenario(0)]
        for name in ("ten times as wide", "a tenth as wide")
    )
    assert "label_smoothing 0.1 instead of 0" in wide
    assert "label_smoothing" not in narrow
    assert "METARM_GATE_MAX_SCALE=10" in wide
    assert "METARM_GATE_MAX_SCALE=10" in narrow


@pytest.mark.parametrize(
    ("name", "preferred", "wanted"), [("length", "longer", "shorter"), ("shortness", "shorter", "longer")]
)
def test_a_remedy_against_length_names_the_preferences_that_are_missing(
    name: str, preferred: str, wanted: str
) -> None:
    scenario = Scenario(0)
    verdict = judge(scenario.parent, CHANGES[name](scenario), scenario.lengths, DEFAULTS, RUN)
    about_length = [
        remedy for why, remedy in zip(verdict.reasons, verdict.remedies, strict=True) if "length" in why
    ]
    assert len(about_length) == 2
    for remedy in about_length:
        assert (
            f"prefers {preferred} responses more: add preferences whose {wanted} response is chosen" in remedy
        )


@pytest.mark.parametrize(("groups", "few"), [(40, True), (100, False)])
def test_few_recent_groups_are_named_in_the_remedy(groups: int, few: bool) -> None:
    scenario = Scenario(0, groups=groups)
    candidate = CHANGES["narrow on samples"](scenario)
    (remedy,) = judge(scenario.parent, candidate, scenario.lengths, DEFAULTS, RUN).remedies
    assert (f"measured on {groups} groups only" in remedy) == few


def test_an_accepted_candidate_has_no_remedies() -> None:
    assert pairs_only(scores(7, 3), scores(7, 3)).remedies == []
