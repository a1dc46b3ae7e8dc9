"""`experiments/simulate`: run the closed loop, print its tables and write study.json."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments import command_line
from experiments.closed_loop.jobs import Mode, run_study
from experiments.closed_loop.plan import QUICK_ARMS, Arm, StudyPlan, all_arms, arm_named
from experiments.closed_loop.records import write_study
from experiments.closed_loop.tables import summary
from metarm.errors import ConfigurationError

SEEDS, QUICK_SEEDS = 10, 3


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(_parser(), simulate, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        "simulate",
        "The closed loop: a policy is optimised on a reward model, the reward model is retrained on the "
        "policy's samples, and so on, once for every way to retrain (an arm). Prints tables and writes "
        "study.json.",
    )
    arms = ", ".join(all_arms())
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SEEDS} seeds, arms {', '.join(QUICK_ARMS)}"
    )
    parser.add_argument(
        "--seeds", type=int, default=argparse.SUPPRESS, help=f"how many seeds (default: {SEEDS})"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument(
        "--arms",
        default=argparse.SUPPRESS,
        help=f"arms, separated by commas: ASCENT@RATE, or {arms} (default: all named)",
    )
    parser.add_argument(
        "--rounds", type=int, default=StudyPlan().rounds, help="rounds of optimisation, retrains between"
    )
    parser.add_argument(
        "--served",
        action="store_true",
        help="score and retrain over HTTP, each run on a `metarm up` of its own; the figures are the same",
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes, one thread each")
    parser.add_argument(
        "--out", type=Path, default=Path("data/simulation"), help="folder for study.json, runs and first models"
    )
    return parser


def simulate(options: argparse.Namespace) -> None:
    """Run the arms and seeds that `options` name, except the runs that `--out` already holds.

    Raises ConfigurationError for options that cannot be run, and any error of a run.
    """
    seeds = getattr(options, "seeds", QUICK_SEEDS if options.quick else SEEDS)
    command_line.at_least(0, first_seed=options.first_seed)
    command_line.at_least(1, seeds=seeds, workers=options.workers)
    command_line.at_least(2, rounds=options.rounds)
    mode: Mode = "served" if options.served else "in-process"
    arms = _arms(options, mode)
    plan = replace(StudyPlan(), rounds=options.rounds)
    numbers = range(options.first_seed, options.first_seed + seeds)
    started = time.monotonic()
    print(f"{len(numbers)} seeds × {len(arms)} arms, {mode}, {options.workers} at a time\n", flush=True)
    study = run_study(plan, arms, list(numbers), mode, options.workers, options.out)
    file = options.out / "study.json"
    write_study(study, file)
    print(summary(study))
    print(f"\n{time.monotonic() - started:.0f} s; wrote {file}")


def _arms(options: argparse.Namespace, mode: Mode) -> Mapping[str, Arm]:
    """The arms by name. Over HTTP a negative rate is an error where `--arms` names it; otherwise that arm is
    left out."""
    if "arms" in options:
        arms = [arm_named(name) for name in options.arms.split(",")]
        refused = [arm.name for arm in arms if mode == "served" and not _served(arm)]
        if refused:
            raise ConfigurationError(
                f"{refused[0]}: POST /retrain takes no rate below 0; run it without --served"
            )
    else:
        names = QUICK_ARMS if options.quick else tuple(all_arms())
        arms = [arm for arm in map(arm_named, names) if mode == "in-process" or _served(arm)]
    return {arm.name: arm for arm in arms}


def _served(arm: Arm) -> bool:
    return float((arm.retrain or {}).get("ascent_rate", 0.0)) >= 0.0


if __name__ == "__main__":
    sys.exit(main())
