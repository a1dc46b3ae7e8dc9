from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from metarm.figures import PairScores
from trainer.gate import Rewards, Thresholds, Verdict, judge
from trainer.settings import TrainerSettings

DEFAULTS = Thresholds.of(TrainerSettings())
LOOSE = replace(DEFAULTS, gate_significance=0.0)


def scores(right: int, wrong: int, tied: int = 0, scale: float = 1.0) -> PairScores:
    """Scores that rank `right` pairs right and `wrong` pairs wrong, and tie on `tied` pairs."""
    chosen = [1.0] * right + [-0.5] * wrong + [0.25] * tied
    rejected = [-1.0] * right + [0.5] * wrong + [0.25] * tied
    return PairScores([scale * s for s in chosen], [scale * s for s in rejected])


def verdict_on_pairs(parent: PairScores, candidate: PairScores, tolerance: float = 0.02) -> Verdict:
    """The verdict without recent samples, where losses within the tolerance are accepted."""
    limits = replace(LOOSE, gate_tolerance=tolerance)
    return judge(Rewards(parent, []), Rewards(candidate, []), [], limits)


class Scenario:
    """A synthetic parent, from which candidates are derived.

    The parent ranks about three of four held-out pairs right. Its rewards of recent groups are random, and
    correlate slightly with length.
    """

    def __init__(self, seed: int, pairs: int = 300, groups: int = 40) -> None:
        self.rng = random.Random(seed)
        normal = self.rng.gauss
        self.lengths = [[self.rng.randint(20, 120) for _ in range(5)] for _ in range(groups)]
        rejected = [normal(0, 1) for _ in range(pairs)]
        chosen = [low + normal(0.8, 1.2) for low in rejected]
        recent = [[normal(0, 0.5) + 0.004 * tokens for tokens in row] for row in self.lengths]
        self.parent = Rewards(PairScores(chosen, rejected), recent)

    def changed(
        self, pair: Callable[[float], float], recent: Callable[[float, int], float] | None = None
    ) -> Rewards:
        """The parent's rewards, changed by `pair`; `recent` changes those of recent groups, by length too."""
        of_recent = recent or (lambda reward, _: pair(reward))
        old = self.parent
        rows = [
            [of_recent(r, n) for r, n in zip(row, tokens, strict=True)]
            for row, tokens in zip(old.recent, self.lengths, strict=True)
        ]
        held_out = PairScores([pair(r) for r in old.held_out.chosen], [pair(r) for r in old.held_out.rejected])
        return Rewards(held_out, rows)

    def judged(self, candidate: Rewards, thresholds: Thresholds = DEFAULTS) -> Verdict:
        return judge(self.parent, candidate, self.lengths, thresholds)


def only_reason(verdict: Verdict) -> str:
    assert not verdict.accepted
    (reason,) = verdict.reasons
    return reason


# --- candidates as good as the parent ----------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, 2, 5, 20, 300])
def test_an_equivalent_candidate_is_accepted_for_every_seed_and_number_of_pairs(pairs: int) -> None:
    for seed in range(60):
        scenario = Scenario(seed, pairs)
        noise = random.Random(f"noise {seed}")
        # the effect of another machine and of a linear calibration
        candidate = scenario.changed(lambda r, noise=noise: 1.3 * r - 2 + noise.gauss(0, 1e-6))  # type: ignore[misc]
        verdict = scenario.judged(candidate)
        assert verdict.accepted, (seed, verdict.reasons)
        assert verdict.figures["agreement"] == 1.0
        assert verdict.figures["accuracy_change"] == 0.0


def test_a_candidate_with_small_unbiased_noise_is_accepted() -> None:
    for seed in range(60):
        scenario = Scenario(seed)
        noise = random.Random(f"noise {seed}")
        verdict = scenario.judged(scenario.changed(lambda r, noise=noise: r + noise.gauss(0, 0.02)))  # type: ignore[misc]
        assert verdict.accepted, (seed, verdict.reasons)


def test_a_candidate_as_good_as_its_parent_is_accepted() -> None:
    verdict = verdict_on_pairs(scores(70, 30), scores(70, 30))
    assert verdict.accepted
    assert verdict.publishes
    assert verdict.reasons == []
    assert verdict.figures["held_out_accuracy"] == verdict.figures["parent_accuracy"] == 0.7
    assert verdict.figures["held_out_pairs"] == 100
    assert verdict.figures["agreement"] is verdict.figures["spread_to_parent"] is None


@pytest.mark.parametrize("right", [69, 80, 100])
def test_a_candidate_within_the_tolerance_or_better_is_accepted(right: int) -> None:
    assert verdict_on_pairs(scores(70, 30), scores(right, 100 - right)).accepted


# --- sabotaged candidates, each rejected for its own reason ------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_flipped_labels_are_rejected_for_the_accuracy_and_the_agreement(seed: int) -> None:
    verdict = Scenario(seed).judged(Scenario(seed).changed(lambda r: -r))
    assert not verdict.accepted
    text = " | ".join(verdict.reasons)
    assert "more than the tolerance" in text
    assert "beyond chance" in text
    assert "orders 0.000 of recent pairs" in text


@pytest.mark.parametrize("factor", [10.0, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_rewards_ten_times_as_large_or_small_are_rejected_only_for_their_scale(
    seed: int, factor: float
) -> None:
    reason = only_reason(Scenario(seed).judged(Scenario(seed).changed(lambda r: factor * r)))
    assert f"spread {factor:.3g} times" in reason


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_candidate_that_scores_samples_by_length_is_rejected_for_its_length_correlation(sign: float) -> None:
    scenario = Scenario(0)
    verdict = scenario.judged(scenario.changed(lambda r: r, lambda _, tokens: sign * 0.02 * tokens))
    text = " | ".join(verdict.reasons)
    assert f"correlate {sign:+.3f} with length" in text
    assert f"{'rose' if sign > 0 else 'fell'} from +0.157 to {sign:+.3f}" in text
    assert "accuracy" not in text


def test_a_rise_of_the_length_correlation_is_a_separate_reason() -> None:
    scenario = Scenario(0)
    reason = only_reason(scenario.judged(scenario.changed(lambda r: r, lambda r, tokens: r + 0.012 * tokens)))
    assert "rose from" in reason


def test_a_candidate_with_the_length_correlation_of_its_parent_is_accepted_even_above_the_limit() -> None:
    scenario = Scenario(0)
    bound = scenario.changed(lambda r: r, lambda r, tokens: 0.01 * r + 0.02 * tokens)
    verdict = judge(bound, bound, scenario.lengths, DEFAULTS)
    assert verdict.accepted
    correlation = verdict.figures["length_correlation"]
    assert correlation is not None
    assert correlation > DEFAULTS.gate_max_length_correlation


def correlated(before: float, after: float) -> Verdict:
    """The verdict on two versions whose rewards correlate with length by these figures."""
    lengths = [[10.0, 20.0, 30.0]] * 40
    pairs = scores(70, 30)

    def rewards(r: float) -> Rewards:
        other = math.sqrt((1 - r * r) / 3)  # (-1, 0, 1) follows length, (1, -2, 1) is independent of it
        return Rewards(pairs, [[-r + other, -2 * other, r + other]] * 40)

    return judge(rewards(before), rewards(after), lengths, replace(DEFAULTS, gate_min_agreement=0.0))


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        (-0.4, 0.786, "rose from -0.400 to +0.786"),
        (0.4, -0.786, "fell from +0.400 to -0.786"),
        (-0.9, 0.9, "rose from -0.900 to +0.900"),
        (0.9, -0.9, "fell from +0.900 to -0.900"),
        (-0.2, 0.2, "rose from -0.200 to +0.200"),
        (0.1, 0.5, "rose from +0.100 to +0.500"),
        (-0.1, -0.5, "fell from -0.100 to -0.500"),
        (0.0, -0.4, "fell from +0.000 to -0.400"),
    ],
)
def test_a_move_of_the_length_correlation_is_judged_with_its_sign(
    before: float, after: float, moved: str
) -> None:
    verdict = correlated(before, after)
    assert moved in only_reason(verdict)
    assert verdict.figures["length_correlation"] == pytest.approx(after)
    assert verdict.figures["parent_length_correlation"] == pytest.approx(before)


@pytest.mark.parametrize(
    ("before", "after"),
    [(0.4, 0.6), (-0.4, -0.6), (0.1, -0.1), (0.9, 0.3), (-0.9, -0.3), (0.9, 0.0), (-0.98, -0.97)],
)
def test_a_small_move_or_one_towards_no_correlation_is_accepted(before: float, after: float) -> None:
    assert correlated(before, after).accepted, correlated(before, after).reasons


@pytest.mark.parametrize("sign", [1, -1])
def test_a_parent_bound_to_length_excuses_only_a_candidate_in_the_same_direction(sign: int) -> None:
    assert correlated(sign * 0.98, sign * 0.97).accepted
    opposite = correlated(sign * 0.98, -sign * 0.97)
    assert f"correlate {-sign * 0.97:+.3f} with length" in opposite.reasons[0]
    assert len(opposite.reasons) == 2


def test_a_candidate_that_separates_samples_less_is_rejected_only_for_its_spread() -> None:
    scenario = Scenario(0)
    reason = only_reason(scenario.judged(scenario.changed(lambda r: r, lambda r, _: 0.3 * r)))
    assert reason.startswith("its spread on recent samples")
    assert "0.300" in reason


def test_a_larger_scale_does_not_hide_a_smaller_spread() -> None:
    scenario = Scenario(0)
    reason = only_reason(scenario.judged(scenario.changed(lambda r: 3 * r, lambda r, _: 0.9 * r)))
    assert reason.startswith("its spread on recent samples")


def test_a_reversed_order_of_samples_is_rejected_for_the_order_and_for_what_it_prefers() -> None:
    scenario = Scenario(0)
    order, length = scenario.judged(scenario.changed(lambda r: r, lambda r, _n: -r)).reasons
    assert "recent pairs as the current version does" in order
    assert "fell from +0.157 to -0.157" in length


def test_a_random_order_of_samples_is_rejected_only_by_a_stricter_threshold() -> None:
    scenario = Scenario(0)
    rng = random.Random("order")
    by_chance = scenario.changed(lambda r: r, lambda _r, _n: rng.gauss(0, 0.6))
    assert scenario.judged(by_chance).accepted
    strict = replace(DEFAULTS, gate_min_agreement=0.6)
    assert "recent pairs as the current version does" in only_reason(scenario.judged(by_chance, strict))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["chosen", "rejected", "recent"])
def test_a_candidate_with_one_non_finite_score_is_rejected(bad: float, place: str) -> None:
    scenario = Scenario(0)
    old = scenario.parent
    chosen, rejected = [*old.held_out.chosen], [*old.held_out.rejected]
    recent = [[*row] for row in old.recent]
    row: list[float] = {"chosen": chosen, "rejected": rejected, "recent": recent[-1]}[place]
    row[-1] = bad
    verdict = scenario.judged(Rewards(PairScores(chosen, rejected), recent))
    assert "finite" in only_reason(verdict)
    assert not verdict.finite


def test_a_candidate_with_a_constant_score_is_rejected_under_any_tolerance() -> None:
    verdict = verdict_on_pairs(scores(70, 30), scores(0, 0, tied=100), 1.0)
    assert "same score" in only_reason(verdict)


def test_a_verdict_lists_every_reason() -> None:
    assert len(verdict_on_pairs(scores(90, 10), scores(0, 0, tied=100)).reasons) == 2


# --- held-out accuracy -------------------------------------------------------------------------------


def test_a_loss_above_the_tolerance_is_rejected_with_both_accuracies() -> None:
    verdict = verdict_on_pairs(scores(70, 30), scores(67, 33))
    reason = only_reason(verdict)
    assert "0.700" in reason
    assert "0.670" in reason
    assert "0.02" in reason
    assert verdict.figures["held_out_accuracy"] == 0.67


def test_without_a_tolerance_the_loss_of_one_pair_is_rejected() -> None:
    assert verdict_on_pairs(scores(70, 30), scores(70, 30), 0.0).accepted
    assert not verdict_on_pairs(scores(70, 30), scores(69, 31), 0.0).accepted


@pytest.mark.parametrize("pairs", [50, 100, 200, 350])
def test_a_loss_of_exactly_the_tolerance_is_allowed_for_every_number_of_pairs(pairs: int) -> None:
    allowed = pairs // 50  # 2%
    for right in range(allowed, pairs + 1):
        before = PairScores([1.0] * right + [0.0] * (pairs - right), [0.5] * pairs)
        after = PairScores([1.0] * (right - allowed) + [0.0] * (pairs - right + allowed), [0.5] * pairs)
        assert "accuracy" not in " ".join(verdict_on_pairs(before, after).reasons)


def test_a_significant_loss_within_the_tolerance_is_rejected() -> None:
    """Of 1000 pairs, 7 are lost and none won (p = 1/128), or 14 are lost and 7 won (p = .095)."""
    parent = scores(700, 300)

    def lost_and_won(lost: int, won: int) -> Verdict:
        after = PairScores(
            [*[-1.0] * lost, *parent.chosen[lost:700], *[1.0] * won, *parent.chosen[700 + won :]],
            [*[1.0] * lost, *parent.rejected[lost:700], *[-1.0] * won, *parent.rejected[700 + won :]],
        )
        return judge(Rewards(parent, []), Rewards(after, []), [], DEFAULTS)

    clear = lost_and_won(7, 0)
    reason = only_reason(clear)
    assert "beyond chance: 7 pairs lost and 0 won (p = 0.0078" in reason
    assert clear.figures["accuracy_change"] == pytest.approx(-0.007)
    assert lost_and_won(14, 7).accepted
    assert lost_and_won(14, 7).figures["loss_by_chance"] == pytest.approx(0.0946, abs=1e-4)


def test_the_figures_contain_margins_and_spread_of_parent_and_candidate() -> None:
    figures = verdict_on_pairs(scores(3, 1), scores(3, 1, scale=2.0)).figures
    assert figures["parent_mean_margin"] == pytest.approx((3 * 2.0 - 1.0) / 4)
    assert figures["mean_margin"] == pytest.approx((3 * 4.0 - 2.0) / 4)
    parent, candidate = figures["parent_score_std"], figures["score_std"]
    assert parent is not None
    assert candidate == pytest.approx(2 * parent)
    assert figures["scale"] == pytest.approx(2.0)


# --- figures that do not decide ----------------------------------------------------------------------


def test_too_few_recent_groups_are_reported_without_a_rejection() -> None:
    scenario = Scenario(0, groups=DEFAULTS.gate_min_groups - 1)
    verdict = scenario.judged(scenario.changed(lambda r: r, lambda r, _: -0.01 * r))
    assert verdict.accepted
    assert verdict.figures["agreement"] == 0.0
    assert verdict.figures["recent_groups"] == DEFAULTS.gate_min_groups - 1


def test_a_parent_with_a_constant_score_blocks_no_candidate() -> None:
    scenario = Scenario(0)
    constant: Sequence[Sequence[float]] = [[0.0] * len(row) for row in scenario.lengths]
    parent = Rewards(PairScores([0.0] * 300, [0.0] * 300), constant)
    verdict = judge(parent, scenario.parent, scenario.lengths, DEFAULTS)
    assert verdict.figures["scale"] is verdict.figures["spread_to_parent"] is None
    assert verdict.accepted, verdict.reasons


def test_every_threshold_is_a_setting_and_is_recorded_in_the_verdict() -> None:
    settings = TrainerSettings(gate_min_agreement=0.7)
    scenario = Scenario(0)
    verdict = scenario.judged(scenario.parent, Thresholds.of(settings))
    assert verdict.thresholds["gate_min_agreement"] == 0.7
    named = {name for name in TrainerSettings.model_fields if name.startswith("gate_")}
    assert set(verdict.thresholds) == named


# --- force -------------------------------------------------------------------------------------------


def test_force_publishes_a_rejected_candidate_and_keeps_the_reasons() -> None:
    verdict = verdict_on_pairs(scores(70, 30), scores(30, 70)).despite(force=True)
    assert (verdict.accepted, verdict.forced, verdict.publishes) == (False, True, True)
    assert verdict.reasons


def test_force_does_not_mark_an_accepted_candidate() -> None:
    verdict = verdict_on_pairs(scores(70, 30), scores(70, 30)).despite(force=True)
    assert (verdict.accepted, verdict.forced) == (True, False)


def test_a_candidate_with_non_finite_scores_is_never_forced() -> None:
    broken = PairScores([math.nan] * 100, [0.0] * 100)
    assert not verdict_on_pairs(scores(70, 30), broken).despite(force=True).publishes
