"""Figures of runs, and of pairs of runs of one seed. Pure.

A win of one policy over another is a response whose gold is more than TIE_BAND above that of the other's
response to the same prompt; every response of the one meets every response of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from experiments.closed_loop.intervals import Interval, over_seeds
from experiments.closed_loop.records import ArmRun, PromptSet, SetRecord, Study, VersionFigures

TIE_BAND = 0.25  # gold points, where the initial policy's responses to a prompt differ by about 2
NO_FINITE_SCORES = 0.5  # the accuracy of a candidate that ranks nothing
SMALLEST_SPREAD = 1e-4  # the resolution of rounded scores: a narrower spread counts as this
Gold = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of won, tied and lost comparisons."""

    win: float
    tie: float
    lose: float

    @property
    def margin(self) -> float:
        return self.win - self.lose


def compare(ours: Gold, theirs: Gold) -> Outcome:
    """Our responses against theirs, prompt by prompt; both have the same prompts in the same order."""
    won, lost = [], []
    for mine, other in zip(ours, theirs, strict=True):
        gap = np.asarray(mine)[:, None] - np.asarray(other)[None, :]
        won.append(float((gap > TIE_BAND).mean()))
        lost.append(float((gap < -TIE_BAND).mean()))
    win, lose = float(np.mean(won)), float(np.mean(lost))
    return Outcome(win, 1.0 - win - lose, lose)


def gold_mean(run: ArmRun, round_: int, prompts: PromptSet = "in") -> float:
    return float(np.mean(_gold(run, round_, prompts)))


def against_initial(run: ArmRun, round_: int, prompts: PromptSet = "in") -> Outcome:
    """The policy at the end of a round against the policy it began as."""
    return compare(_gold(run, round_, prompts), _gold(run, 0, prompts))


def against(run: ArmRun, other: ArmRun, round_: int, prompts: PromptSet = "in") -> Outcome:
    """Two arms' policies after the same number of updates."""
    return compare(_gold(run, round_, prompts), _gold(other, round_, prompts))


def against_best_of_n(run: ArmRun, fixed: ArmRun, round_: int) -> Outcome:
    """The policy against the best of n responses of the initial one, chosen by the first version."""
    return compare(_gold(run, round_, "in"), fixed.best_of_gold)


def best_of_n_against_initial(fixed: ArmRun) -> Outcome:
    """That best of n against the initial policy's responses."""
    return compare(fixed.best_of_gold, _gold(fixed, 0, "in"))


def spread_to_first(run: ArmRun, prompts: PromptSet = "in") -> float:
    """The retrained versions' spread on the responses that brought the retrain about (unseen prompts), over
    the same versions' spread on the initial policy's: geometric mean over the retrains."""
    logs = [log(_spread(after) / _spread(first)) for after, first in _pairs(run, prompts)]
    return float(np.exp(np.mean(logs)))


def variance_change(run: ArmRun) -> float:
    """Var(Δr) at the last round over that at the start, by the versions the policy was trained on."""
    last, first = (_spread(run.rounds[at].sets["in"].before) for at in (-1, 0))
    return (last / first) ** 2


def gold_variance_change(run: ArmRun) -> float:
    """The same of Var(Δgold)."""
    last, first = (max(run.rounds[at].sets["in"].gold_variance, SMALLEST_SPREAD**2) for at in (-1, 0))
    return last / first


def shifted_accuracy(run: ArmRun, prompts: PromptSet = "in") -> float:
    """Gold accuracy of the retrained versions on those responses: mean over the retrains."""
    return float(np.mean([after.accuracy for after, _ in _pairs(run, prompts)]))


def first_shifted_accuracy(run: ArmRun) -> float:
    """The same after the first retrain alone: there all arms judge the same responses."""
    return _pairs(run, "in")[0][0].accuracy


def initial_accuracy(run: ArmRun) -> float:
    """Gold accuracy of the retrained versions on the initial policy's responses: mean over the retrains."""
    return float(np.mean([first.accuracy for _, first in _pairs(run, "in")]))


def held_out_accuracy(run: ArmRun) -> float:
    """Of the candidates, accepted or not, on held-out preferences: mean over the retrains."""
    found = [r.retrain.held_out_accuracy for r in run.rounds if r.retrain is not None]
    return float(np.mean([NO_FINITE_SCORES if value is None else value for value in found]))


def rejected(run: ArmRun) -> int:
    """The number of candidates that the gate rejected."""
    return sum(r.retrain is not None and not r.retrain.accepted for r in run.rounds)


def by_seed(
    ours: Mapping[int, ArmRun], theirs: Mapping[int, ArmRun], figure: Callable[[int], float]
) -> Interval:
    """A figure of each seed that both have."""
    return over_seeds([figure(seed) for seed in sorted(ours.keys() & theirs.keys())])


def paired(
    ours: Mapping[int, ArmRun], theirs: Mapping[int, ArmRun], figure: Callable[[ArmRun], float]
) -> Interval:
    """Our figure less theirs, seed by seed, over the seeds both have."""
    return by_seed(ours, theirs, lambda seed: figure(ours[seed]) - figure(theirs[seed]))


def paired_log(
    ours: Mapping[int, ArmRun], theirs: Mapping[int, ArmRun], figure: Callable[[ArmRun], float]
) -> Interval:
    """The ratio of our figure to theirs, seed by seed: geometric mean."""
    return paired(ours, theirs, lambda run: log(figure(run))).exp()


def peak_rounds(runs: Mapping[int, ArmRun], prompts: PromptSet = "in") -> dict[int, int]:
    """The best round for each seed, by mean gold, chosen on the other seeds: a seed's own luck does not
    choose the round it is judged at. With a single seed, its own."""
    curves = {
        seed: [gold_mean(run, r.round, prompts) for r in run.rounds if r.round > 0]
        for seed, run in runs.items()
    }
    chosen = {}
    for seed in curves:
        others = [curve for other, curve in curves.items() if other != seed] or [curves[seed]]
        chosen[seed] = 1 + int(np.argmax(np.mean(others, axis=0)))
    return chosen


def last_round(study: Study) -> int:
    return max(record.round for run in study.runs for record in run.rounds)


def retrained_arms(study: Study) -> list[str]:
    """Arms with a retrain, in the study's order."""
    return [
        arm
        for arm in study.arms
        if any(r.retrain is not None for run in study.of(arm).values() for r in run.rounds)
    ]


def _gold(run: ArmRun, round_: int, prompts: PromptSet) -> Gold:
    return _set(run, round_, prompts).gold


def _set(run: ArmRun, round_: int, prompts: PromptSet) -> SetRecord:
    return next(record for record in run.rounds if record.round == round_).sets[prompts]


def _spread(figures: VersionFigures) -> float:
    return max(figures.spread, SMALLEST_SPREAD)


def _pairs(run: ArmRun, prompts: PromptSet) -> list[tuple[VersionFigures, VersionFigures]]:
    """(on the shifted responses, on the initial ones) of the version that serves after each retrain."""
    sets = [record.sets[prompts] for record in run.rounds]
    return [(s.after, s.initial_after) for s in sets if s.after is not None and s.initial_after is not None]
