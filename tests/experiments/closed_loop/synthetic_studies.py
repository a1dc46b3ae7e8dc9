"""Synthetic studies, with the figures that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from experiments.closed_loop.plan import StudyPlan
from experiments.closed_loop.records import (
    ArmRun,
    PromptSet,
    RetrainRecord,
    RoundRecord,
    SetRecord,
    StepRecord,
    Study,
    VersionFigures,
)

PLAN = StudyPlan(rounds=3, steps=2)


def figures(variance: float, accuracy: float) -> VersionFigures:
    return VersionFigures("v000001", 0.0, variance, accuracy, 0.0, [0.1, 0.5, 0.9])


def synthetic_run(
    arm: str,
    seed: int,
    *,
    gold: Sequence[float] = (0.0, 1.0, 2.0, 1.0),
    out_gold: Sequence[float] | None = None,
    variance: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
    gold_variance: Sequence[float] = (6.0, 6.0, 6.0, 6.0),
    after: float = 1.0,
    accuracy: float = 0.6,
    held_out: float = 0.7,
    accepted: bool = True,
) -> ArmRun:
    """A run whose policy has `gold` by round (jittered by seed), with a retrain after all rounds but the last,
    except in the arm `fixed`. `after` and `accuracy` are those on shifted responses after each retrain."""
    noise = np.random.default_rng(seed).normal(0.0, 0.02, 8).tolist()
    rounds = []
    for number, level in enumerate(gold):
        has_retrain = arm != "fixed" and 0 < number < len(gold) - 1
        sets: dict[PromptSet, SetRecord] = {}
        for name, value in (("in", level), ("out", (out_gold or gold)[number])):
            sets["in" if name == "in" else "out"] = SetRecord(
                gold=[[value + noise[number] - 0.5, value + 0.5], [value, value + noise[number]]],
                gold_variance=gold_variance[number],
                length_mean=50.0,
                distinct_share=1.0,
                before=figures(variance[number] * (1.0 + noise[number]), 0.6),
                after=figures(after * (1.0 + noise[number]), accuracy + noise[number]) if has_retrain else None,
                initial_after=figures(4.0, 0.72) if has_retrain else None,
            )
        retrain = RetrainRecord(
            "v000002", accepted, [], 0.7, held_out + noise[number] / 10, 1.0, 1.0, [(0, 0.7), (8, held_out)]
        )
        rounds.append(RoundRecord(number, float(number), 10.0, sets, retrain if has_retrain else None))
    steps = [StepRecord(step, 2.0 / (1 + step), 6.0, 0.0, 1.0) for step in range(PLAN.steps * PLAN.rounds)]
    best_of = [[1.5, 1.5], [1.5, 1.0]] if arm == "fixed" else []
    return ArmRun(seed, arm, rounds, steps, best_of, 1.0)


def synthetic_study(seeds: int, **arms: Callable[[str, int], ArmRun]) -> Study:
    """`arms`: functions that make each arm's runs; `_times_2` in a name stands for ` ×2`."""
    made = {name.replace("_times_", " ×").replace("0_2", "0.2"): make for name, make in arms.items()}
    runs = [make(name, seed) for seed in range(seeds) for name, make in made.items()]
    return Study("in-process", "0.1.0", asdict(PLAN), {name: {} for name in made}, runs)
