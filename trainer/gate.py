"""The gate: rewards of a candidate and of its parent → a verdict on the candidate. Pure, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, NamedTuple, Self

from metarm.figures import Z95, PairScores, Rows, agreement, deviation, length_correlation, ratio, spread
from trainer.remedies import Cause, remedy
from trainer.settings import TrainerSettings

ROUNDING = 1e-9  # a loss of exactly the tolerance is allowed, whatever the float sum says
CONSTANT = 1e-6  # a model whose rewards have a smaller standard deviation ranks nothing
Figures = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Rewards:
    """The raw rewards of one version on the evaluation set; `recent` has a row a sample group."""

    held_out: PairScores
    recent: Rows

    @property
    def all(self) -> list[float]:
        return [*self.held_out.all, *(reward for row in self.recent for reward in row)]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The trainer's settings of the same names."""

    gate_tolerance: float
    gate_significance: float
    gate_min_groups: int
    gate_min_spread_ratio: float
    gate_min_agreement: float
    gate_max_scale: float
    gate_max_length_correlation: float
    gate_max_length_rise: float

    @classmethod
    def of(cls, settings: TrainerSettings) -> Self:
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate may serve, every reason against it, the figures (docs/metarm.md) and the thresholds.

    `finite`: all its rewards are finite. `forced`: it is published despite the reasons, on an admin's request.
    `remedies[i]` says what to do about `reasons[i]`.
    """

    accepted: bool
    reasons: list[str]
    figures: Figures
    thresholds: Mapping[str, float] = field(default_factory=dict)
    finite: bool = True
    forced: bool = False
    remedies: list[str] = field(default_factory=list)

    @property
    def publishes(self) -> bool:
        return self.accepted or self.forced

    def despite(self, force: bool) -> Verdict:
        """The verdict under an admin's `force`, which never publishes non-finite rewards."""
        return replace(self, forced=force and self.finite and not self.accepted)


class Objection(NamedTuple):
    """A reason against a candidate, and the kind of reason, which has a remedy."""

    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy after less accuracy before, on the same pairs: the mean and its 95% interval (normal
    approximation), the numbers of pairs `lost` and `won`, and `chance`: the one-sided p-value of the sign test
    (McNemar's exact test) over the pairs that changed."""

    mean: float
    low: float
    high: float
    lost: int
    won: int
    chance: float


def paired_difference(before: PairScores, after: PairScores) -> PairedDifference:
    """Both are of the same pairs, at least one."""
    changes = [b - a for a, b in zip(before.wins, after.wins, strict=True)]
    lost, won = (sum(change * sign > 0 for change in changes) for sign in (-1, 1))
    middle, half = fmean(changes), Z95 * deviation(changes) / math.sqrt(len(changes))
    return PairedDifference(middle, middle - half, middle + half, lost, won, sign_test(lost, lost + won))


def judge(
    parent: Rewards,
    candidate: Rewards,
    lengths: Rows,
    thresholds: Thresholds,
    options: Mapping[str, Any] | None = None,
) -> Verdict:
    """Judge a candidate by its rewards and its parent's on one evaluation set, which has at least one pair.

    `lengths` are the tokens of the recent responses. A figure is None, and gives no reason, where it is not
    defined: without recent groups, or where nothing varies. `options` of the run are for the remedies.
    """
    figures: dict[str, float | None] = {}
    finite = all(math.isfinite(reward) for reward in candidate.all)
    if not finite:
        found = [Objection("not_finite", "the candidate answers scores that are not finite numbers")]
    else:
        figures |= _held_out_figures(parent.held_out, candidate.held_out)
        figures |= _recent_figures(parent, candidate, lengths)
        found = [*_against_held_out(figures, thresholds)]
        if len(lengths) >= thresholds.gate_min_groups:
            found += _against_recent(figures, thresholds)
    limits = asdict(thresholds)
    reasons = [objection.reason for objection in found]
    remedies = [remedy(objection.cause, figures, limits, options or {}) for objection in found]
    return Verdict(not found, reasons, figures, limits, finite=finite, remedies=remedies)


def _held_out_figures(parent: PairScores, candidate: PairScores) -> dict[str, float | None]:
    change = paired_difference(parent, candidate)
    std, parent_std = deviation(candidate.all), deviation(parent.all)
    return {
        "held_out_pairs": float(len(candidate.chosen)),
        "held_out_accuracy": candidate.accuracy,
        "parent_accuracy": parent.accuracy,
        "accuracy_change": change.mean,
        "accuracy_change_low": change.low,
        "accuracy_change_high": change.high,
        "pairs_lost": float(change.lost),
        "pairs_won": float(change.won),
        "loss_by_chance": change.chance,
        "mean_margin": fmean(candidate.margins),
        "parent_mean_margin": fmean(parent.margins),
        "score_std": std,
        "parent_score_std": parent_std,
        "scale": ratio(std, parent_std),
    }


def _recent_figures(parent: Rewards, candidate: Rewards, lengths: Rows) -> dict[str, float | None]:
    shifted, parent_shifted = _shifted_spread(candidate), _shifted_spread(parent)
    return {
        "recent_groups": float(len(lengths)),
        "shifted_spread": shifted,
        "parent_shifted_spread": parent_shifted,
        "spread_to_parent": ratio(shifted, parent_shifted),
        "agreement": agreement(parent.recent, candidate.recent),
        "length_correlation": length_correlation(candidate.recent, lengths),
        "parent_length_correlation": length_correlation(parent.recent, lengths),
    }


def _shifted_spread(rewards: Rewards) -> float | None:
    """The spread within recent groups ÷ the spread on held-out pairs."""
    return ratio(spread(rewards.recent), rewards.held_out.spread) if rewards.recent else None


def _against_held_out(figures: Figures, thresholds: Thresholds) -> Iterator[Objection]:
    before, after = _known(figures, "parent_accuracy"), _known(figures, "held_out_accuracy")
    lost, won = _known(figures, "pairs_lost"), _known(figures, "pairs_won")
    fell = f"held-out accuracy fell from {before:.3f} to {after:.3f}"
    if after < before - thresholds.gate_tolerance - ROUNDING:
        reason = f"{fell}, more than the tolerance of {thresholds.gate_tolerance:g}"
        yield Objection("accuracy", reason)
    chance = _known(figures, "loss_by_chance")
    if chance < thresholds.gate_significance:
        reason = (
            f"{fell}, which is beyond chance: {lost:.0f} pairs lost and {won:.0f} won (p = {chance:.2g}, below "
            f"{thresholds.gate_significance:g})"
        )
        yield Objection("significance", reason)
    if _known(figures, "score_std") < CONSTANT:
        yield Objection("constant", "the candidate gives every response the same score")
        return
    scale, most = figures["scale"], thresholds.gate_max_scale
    if scale is not None and not 1 / most - ROUNDING <= scale <= most + ROUNDING:
        reason = (
            f"its rewards spread {scale:.3g} times as wide as the current version's: not within 1/{most:g} and "
            f"{most:g}"
        )
        yield Objection("scale", reason)


def _against_recent(figures: Figures, thresholds: Thresholds) -> Iterator[Objection]:
    to_parent, least = figures["spread_to_parent"], thresholds.gate_min_spread_ratio
    if to_parent is not None and to_parent < least - ROUNDING:
        reason = (
            f"its spread on recent samples, over that on held-out pairs, is {to_parent:.3f} of the current "
            f"version's: below {least:g}"
        )
        yield Objection("spread", reason)
    alike, least = figures["agreement"], thresholds.gate_min_agreement
    if alike is not None and alike < least - ROUNDING:
        reason = f"it orders {alike:.3f} of recent pairs as the current version does: below {least:g}"
        yield Objection("agreement", reason)
    yield from _against_length(figures, thresholds)


def _against_length(figures: Figures, thresholds: Thresholds) -> Iterator[Objection]:
    """The correlation keeps its sign: to prefer longer responses and to prefer shorter ones are opposites. A
    candidate between 0 and its parent follows length less, in the same direction: that is no objection, or no
    run could repair a version that a policy has exploited by length."""
    length = figures["length_correlation"]
    if length is None:
        return
    before = figures["parent_length_correlation"] or 0.0  # a parent that separates nothing follows no length
    most = thresholds.gate_max_length_correlation
    in_its_direction = before if before * length > 0 else 0.0
    if abs(length) > max(most, abs(in_its_direction)) + ROUNDING:
        reason = f"its rewards correlate {length:+.3f} with length on recent samples: beyond ±{most:g}"
        yield Objection("length", reason)
    move, least, greatest = length - before, min(0.0, before), max(0.0, before)
    if abs(move) > thresholds.gate_max_length_rise + ROUNDING and not least <= length <= greatest:
        reason = (
            f"the correlation of reward and length on recent samples {'rose' if move > 0 else 'fell'} from "
            f"{before:+.3f} to {length:+.3f}: by more than {thresholds.gate_max_length_rise:g}"
        )
        yield Objection("length_move", reason)


def _known(figures: Figures, name: str) -> float:
    value = figures[name]
    assert value is not None, name  # noqa: S101 (figures of held-out pairs are always defined)
    return value


def sign_test(heads: int, tosses: int) -> float:
    """The probability of `heads` or more in `tosses` tosses of a fair coin."""
    return float(sum(math.comb(tosses, k) for k in range(heads, tosses + 1)) / (1 << tosses))
