from __future__ import annotations

import math

import pytest

from trainer.gate import PairScores, accuracy, judge


def scores(right: int, wrong: int, tied: int = 0, scale: float = 1.0) -> PairScores:
    """So many pairs told right, wrong and not at all."""
    chosen = [1.0] * right + [-0.5] * wrong + [0.25] * tied
    rejected = [-1.0] * right + [0.5] * wrong + [0.25] * tied
    return PairScores([scale * s for s in chosen], [scale * s for s in rejected])


def test_a_candidate_as_good_as_its_parent_is_accepted() -> None:
    verdict = judge(scores(70, 30), scores(70, 30), 0.02)
    assert verdict.accepted
    assert verdict.reasons == []
    assert verdict.figures["held_out_accuracy"] == verdict.figures["parent_accuracy"] == 0.7
    assert verdict.figures["held_out_pairs"] == 100


@pytest.mark.parametrize("right", [69, 80, 100])
def test_a_candidate_within_the_tolerance_or_better_is_accepted(right: int) -> None:
    assert judge(scores(70, 30), scores(right, 100 - right), 0.02).accepted


def test_a_candidate_worse_by_more_than_the_tolerance_is_rejected_with_both_figures() -> None:
    verdict = judge(scores(70, 30), scores(67, 33), 0.02)
    assert not verdict.accepted
    (reason,) = verdict.reasons
    assert "0.700" in reason
    assert "0.670" in reason
    assert "0.02" in reason
    assert verdict.figures["held_out_accuracy"] == 0.67


def test_without_tolerance_one_pair_less_is_too_much() -> None:
    assert judge(scores(70, 30), scores(70, 30), 0.0).accepted
    assert not judge(scores(70, 30), scores(69, 31), 0.0).accepted


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_one_score_that_is_not_finite_rejects_a_candidate(bad: float, side: str) -> None:
    good = scores(70, 30)
    worse = [*good.chosen[:-1], bad]
    candidate = PairScores(worse, good.rejected) if side == "chosen" else PairScores(good.chosen, worse)
    verdict = judge(good, candidate, 1.0)
    assert not verdict.accepted
    assert "finite" in verdict.reasons[0]


def test_a_candidate_that_gives_every_response_one_score_is_rejected_whatever_the_tolerance() -> None:
    verdict = judge(scores(70, 30), scores(0, 0, tied=100), 1.0)
    assert not verdict.accepted
    assert "same score" in verdict.reasons[0]


def test_every_reason_against_a_candidate_is_given() -> None:
    assert len(judge(scores(90, 10), scores(0, 0, tied=100), 0.02).reasons) == 2


def test_a_tie_counts_half() -> None:
    assert accuracy(scores(1, 0)) == 1.0
    assert accuracy(scores(0, 0, tied=3)) == 0.5
    assert accuracy(scores(1, 1, tied=2)) == 0.5
    assert accuracy(scores(2, 1, tied=1)) == 0.625


def test_the_scale_of_the_scores_does_not_matter_to_the_verdict() -> None:
    assert judge(scores(70, 30), scores(70, 30, scale=100.0), 0.0).accepted


def test_the_figures_show_margins_and_spread_of_both() -> None:
    figures = judge(scores(3, 1), scores(3, 1, scale=2.0), 0.0).figures
    assert figures["parent_mean_margin"] == pytest.approx((3 * 2.0 - 1.0) / 4)
    assert figures["mean_margin"] == pytest.approx((3 * 4.0 - 2.0) / 4)
    parent, candidate = figures["parent_score_std"], figures["score_std"]
    assert parent is not None
    assert candidate == pytest.approx(2 * parent)


@pytest.mark.parametrize("pairs", [50, 100, 200, 350])
def test_a_loss_of_exactly_the_tolerance_is_allowed_for_every_number_of_pairs(pairs: int) -> None:
    allowed = pairs // 50  # 2%
    for right in range(allowed, pairs + 1):
        before = PairScores([1.0] * right + [0.0] * (pairs - right), [0.5] * pairs)
        after = PairScores([1.0] * (right - allowed) + [0.0] * (pairs - right + allowed), [0.5] * pairs)
        assert "accuracy" not in " ".join(judge(before, after, 0.02).reasons)
