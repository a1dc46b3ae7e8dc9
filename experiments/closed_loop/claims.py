"""The paper's claims C1 to C8, answered from a study: yes, no or unclear, each with its figures. Pure.

An answer is yes where the 95% interval over seeds lies on the claimed side, no where it lies on the other
(for "the same as" claims: outside the margin), unclear otherwise, and below FEWEST_SEEDS seeds always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import log

from experiments.closed_loop import comparisons as c
from experiments.closed_loop.intervals import Answer, Interval, above, below, every, over_seeds, within
from experiments.closed_loop.plan import FIXED, RATE_FACTORS, SWEPT, VANILLA, swept_name
from experiments.closed_loop.records import ArmRun, PromptSet, Study

ACCURACY_MARGIN = 0.01  # C2: one point
RATE_MARGIN = 0.02  # C8: the change of the paper's own wins


@dataclass(frozen=True, slots=True)
class Part:
    """One figure behind an answer, in words."""

    says: str
    figure: Interval
    answer: Answer


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim about one arm."""

    name: str
    statement: str
    arm: str
    answer: Answer
    parts: list[Part]


Runs = Mapping[int, ArmRun]


def claims(study: Study) -> list[Claim]:
    """Every claim that the study's arms can answer, in the order of their numbers."""
    found: list[Claim] = []
    fixed, vanilla = study.of(FIXED), study.of(VANILLA)
    variants = [arm for arm in c.retrained_arms(study) if arm != VANILLA]
    if fixed:
        found.append(_premise(fixed))
    if vanilla:
        found += [_held_out(arm, study.of(arm), vanilla) for arm in variants]
        found += [_spread(arm, study.of(arm), vanilla) for arm in variants]
        found += [_accuracy(arm, study.of(arm), vanilla) for arm in variants]
    found += [_rise_and_dip(arm, study.of(arm)) for arm in [*study.arms] if study.of(arm)]
    if fixed and vanilla:
        found += [_beats("C6", arm, study.of(arm), fixed, vanilla, "in") for arm in variants]
        found += [_beats("C7", arm, study.of(arm), fixed, vanilla, "out") for arm in variants]
    sweep = {factor: study.of(swept_name(factor)) for factor in RATE_FACTORS}
    if all(sweep.values()):
        found.append(_flat(sweep))
    return found


def _claim(name: str, statement: str, arm: str, *parts: Part) -> Claim:
    return Claim(name, statement, arm, every([part.answer for part in parts]), list(parts))


def _premise(fixed: Runs) -> Claim:
    falls = over_seeds([log(c.variance_change(run)) for run in fixed.values()]).exp()
    gold = over_seeds([log(c.gold_variance_change(run)) for run in fixed.values()]).exp()
    rest = over_seeds(
        [log(c.variance_change(run) / c.gold_variance_change(run)) for run in fixed.values()]
    ).exp()
    distinct = over_seeds([run.rounds[-1].sets["in"].distinct_share for run in fixed.values()])
    return _claim(
        "C1",
        "with a fixed RM, Var(Δr) on policy samples falls, and not because responses become alike",
        FIXED,
        Part("Var(Δr), last round ÷ initial", falls, below(falls, 1.0)),
        Part(
            f"the same ÷ that of Var(Δgold), which went ×{gold.value:.2f}; "
            f"{distinct.value:.0%} of a prompt's drafts differ",
            rest,
            below(rest, 1.0),
        ),
    )


def _held_out(arm: str, runs: Runs, vanilla: Runs) -> Claim:
    change = c.paired(runs, vanilla, c.held_out_accuracy)
    return _claim(
        "C2",
        "held-out accuracy within 1 point of vanilla",
        arm,
        Part("held-out accuracy less vanilla's", change, within(change, ACCURACY_MARGIN)),
    )


def _spread(arm: str, runs: Runs, vanilla: Runs) -> Claim:
    change = c.paired_log(runs, vanilla, c.spread_to_first)
    return _claim(
        "C3",
        "spread on shifted, unseen prompts wider than vanilla's, each over its spread on initial responses",
        arm,
        Part("normalised spread ÷ vanilla's", change, above(change, 1.0)),
    )


def _accuracy(arm: str, runs: Runs, vanilla: Runs) -> Claim:
    change = c.paired(runs, vanilla, c.shifted_accuracy)
    return _claim(
        "C4",
        "gold accuracy on shifted pairs higher than vanilla's",
        arm,
        Part("gold accuracy on shifted pairs less vanilla's", change, above(change)),
    )


def _rise_and_dip(arm: str, runs: Runs) -> Claim:
    """Rounds are chosen on the other seeds; where the best round is the last, nothing dips."""
    peaks = c.peak_rounds(runs)
    rise, dip = [], []
    for seed, run in runs.items():
        at_peak = c.against_initial(run, peaks[seed]).win
        rise.append(at_peak - c.against_initial(run, 1).win)
        dip.append(c.against_initial(run, run.rounds[-1].round).win - at_peak)
    rising, dipping = over_seeds(rise), over_seeds(dip)
    return _claim(
        "C5",
        "gold win rate against the initial policy rises over rounds, then dips",
        arm,
        Part(f"win rate, best round ({_rounds(peaks)}) less the first", rising, above(rising)),
        Part("win rate, last round less the best", dipping, below(dipping)),
    )


def _beats(name: str, arm: str, runs: Runs, fixed: Runs, vanilla: Runs, prompts: PromptSet) -> Claim:
    peaks = c.peak_rounds(runs, prompts)
    parts = []
    for other, theirs in (("the fixed RM's policy", fixed), ("the vanilla-retrained RM's policy", vanilla)):
        margin = c.by_seed(runs, theirs, partial(_margin, runs, theirs, peaks, prompts))
        says = f"wins less losses against {other}, best round ({_rounds(peaks)})"
        parts.append(Part(says, margin, above(margin)))
    where = "out-of-distribution prompts" if prompts == "out" else "held-out prompts"
    statement = f"the best round beats a fixed RM and a vanilla-retrained one at equal RL budget, {where}"
    return _claim(name, statement, arm, *parts)


def _flat(sweep: Mapping[float, Runs]) -> Claim:
    """Wins against the initial policy, at the best round of the variant's own rate."""
    own = sweep[1.0]
    peaks = c.peak_rounds(own)
    parts = []
    for factor, runs in sweep.items():
        if factor == 1.0:
            continue
        change = c.by_seed(runs, own, partial(_more_wins, runs, own, peaks))
        parts.append(Part(f"win rate at η × {factor:g} less that at η", change, within(change, RATE_MARGIN)))
    return _claim("C8", "flat over η × {.2, 1, 2}: wins move by at most 2 points", SWEPT, *parts)


def _margin(runs: Runs, theirs: Runs, rounds: Mapping[int, int], prompts: PromptSet, seed: int) -> float:
    return c.against(runs[seed], theirs[seed], rounds[seed], prompts).margin


def _more_wins(runs: Runs, own: Runs, rounds: Mapping[int, int], seed: int) -> float:
    return c.against_initial(runs[seed], rounds[seed]).win - c.against_initial(own[seed], rounds[seed]).win


def _rounds(peaks: Mapping[int, int]) -> str:
    """`3`, or `2-3` where seeds chose differently."""
    low, high = min(peaks.values()), max(peaks.values())
    return f"{low}" if low == high else f"{low}-{high}"
