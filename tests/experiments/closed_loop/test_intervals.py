from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.closed_loop.intervals import FEWEST_SEEDS, Interval, above, below, every, over_seeds, within


def figure(low: float, high: float, seeds: int = 10) -> Interval:
    return Interval((low + high) / 2, low, high, seeds)


def test_an_interval_contains_the_mean_and_is_deterministic() -> None:
    values = [0.1, 0.3, 0.2, 0.5, 0.4, 0.0]
    found = over_seeds(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low < found.value < found.high
    assert found == over_seeds(values)


def test_the_interval_covers_the_true_mean_about_nine_times_in_ten_for_ten_seeds() -> None:
    rng = np.random.default_rng(0)
    found = [over_seeds(rng.normal(1.0, 2.0, 10).tolist()) for _ in range(300)]
    covered = sum(each.low <= 1.0 <= each.high for each in found)
    assert 255 <= covered <= 291  # a percentile bootstrap of ten values is a little too narrow


def test_without_seeds_the_figure_is_undefined() -> None:
    assert math.isnan(over_seeds([]).value)


def test_a_claim_is_answered_only_where_the_interval_lies_on_one_side() -> None:
    assert [above(figure(0.01, 0.2)), above(figure(-0.2, -0.01)), above(figure(-0.1, 0.1))] == [
        "yes",
        "no",
        "unclear",
    ]
    assert [below(figure(-0.2, -0.01)), below(figure(0.01, 0.2)), below(figure(-0.1, 0.1))] == [
        "yes",
        "no",
        "unclear",
    ]


def test_sameness_needs_the_whole_interval_inside_the_margin() -> None:
    assert within(figure(-0.005, 0.009), 0.01) == "yes"
    assert within(figure(-0.005, 0.02), 0.01) == "unclear"
    assert within(figure(0.011, 0.02), 0.01) == "no"
    assert within(figure(-0.03, -0.02), 0.01) == "no"


def test_with_too_few_seeds_every_answer_is_unclear() -> None:
    few = figure(0.1, 0.2, FEWEST_SEEDS - 1)
    assert {above(few), below(few), within(few, 1.0)} == {"unclear"}


def test_an_answer_is_yes_if_all_parts_are_and_no_if_one_is() -> None:
    assert every(["yes", "yes"]) == "yes"
    assert every(["yes", "unclear"]) == "unclear"
    assert every(["unclear", "no"]) == "no"
    assert every([]) == "unclear"


def test_a_quotient_is_printed_as_a_factor() -> None:
    assert str(Interval(0.0, math.log(0.5), math.log(2.0), 9).exp()) == "×1.00 [0.50, 2.00]"
    assert str(Interval(0.01, -0.002, 0.02, 9)) == "+0.010 [-0.002, +0.020]"
