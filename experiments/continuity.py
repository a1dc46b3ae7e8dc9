"""`experiments/continuity`: what PPO and GRPO learners see at a swap of the reward model, by raw rewards and by
calibrated scores.

A policy of the text world is optimised on calibrated scores; the model is retrained on its samples and swapped,
round after round. At every swap both versions score the responses of the last updates.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from tqdm import tqdm

from experiments import command_line
from experiments.closed_loop.jobs import worker_pool
from experiments.closed_loop.plan import StudyPlan, arm_named
from experiments.closed_loop.play import play
from experiments.closed_loop.records import RetrainRecord
from experiments.learners import Scores, Swap, swap
from metarm.runtime.tables import aligned
from metarm.store.calibration import Calibration
from simulation.optimise import Groups

ARMS = ("conservative", "none", "joint")
RECENT_UPDATES = 4  # in the running mean
LEGEND = """\
|jump| and largest: how far the mean score of the last update's responses moves at the swap, in standard
deviations of the old scores. PPO's advantages are against a running mean of old scores. size: their root mean
square, after over before; PPO flips: the share that change sign; informed: the same with a running mean of the
new version's scores. GRPO's advantages are normalised within groups."""
PLAN = replace(StudyPlan(), rounds=4, measured_prompts=2, measured_shifted_families=2, best_of_tries=1)


@dataclass(frozen=True, slots=True)
class Seen:
    """One swap of one run, by raw rewards and by calibrated scores."""

    arm: str
    seed: int
    version: str
    raw: Swap
    calibrated: Swap


class Watched:
    """The reward models of a run in this process; records every swap."""

    def __init__(self, plan: StudyPlan, arm: str, seed: int, kept: Path, folder: Path) -> None:
        from experiments.closed_loop.first_model import first_model  # torch, in the workers alone
        from experiments.closed_loop.in_process import InProcess

        self._models = InProcess(plan, first_model(plan, seed, kept), folder)
        self._arm, self._seed = arm, seed
        self._recent: list[tuple[Groups, list[list[float]]]] = []
        self.swaps: list[Seen] = []
        self.refused = 0
        self.version = self._models.version

    def score(self, groups: Groups) -> list[list[float]]:
        return self._models.score(groups)

    def reward(self, groups: Groups, step: int) -> list[list[float]]:
        scores = self._models.reward(groups, step)
        self._recent.append((groups, scores))
        return scores

    def retrain(self, options: Mapping[str, Any]) -> RetrainRecord:
        parent = self._models.calibration
        record = self._models.retrain(options)
        self.version = self._models.version
        recent, self._recent = self._recent[-RECENT_UPDATES:], []
        if not record.accepted:
            self.refused += 1
            return record
        old = np.array([row for _, scores in recent for row in scores])
        new = np.array([row for groups, _ in recent for row in self._models.score(groups)])
        last = len(recent[-1][0])  # groups of the last update
        raw_old, raw_new = _raw(old, parent), _raw(new, self._models.calibration)
        self.swaps.append(
            Seen(
                self._arm,
                self._seed,
                record.candidate,
                swap(raw_old[-last:], raw_new[-last:], raw_old, raw_new),
                swap(old[-last:], new[-last:], old, new),
            )
        )
        return record


def run(plan: StudyPlan, arm: str, seed: int, kept: Path) -> tuple[list[Seen], int]:
    """The swaps of one run, and the number of candidates that the gate rejected."""
    with tempfile.TemporaryDirectory(prefix="metarm-continuity-") as folder:
        watched = Watched(plan, arm, seed, kept, Path(folder))
        play(plan, arm_named(arm), seed, watched)
        return watched.swaps, watched.refused


def table(swaps: Sequence[Seen], refused: Mapping[str, int]) -> str:
    """Two rows an arm, raw and calibrated: means over all its swaps, and the largest jump."""
    head = [
        "arm",
        "scores",
        "swaps",
        "refused",
        "|jump|",
        "largest",
        "size",
        "PPO flips",
        "informed",
        "GRPO flips",
    ]
    rows = [head]
    for arm in dict.fromkeys(each.arm for each in swaps):
        of_arm = [each for each in swaps if each.arm == arm]
        for name, some in (("raw", [e.raw for e in of_arm]), ("calibrated", [e.calibrated for e in of_arm])):
            jumps = [abs(each.jump) for each in some]
            sizes = [each.size for each in some]
            shares = [
                np.mean([getattr(e, field) for e in some]) for field in ("flips", "informed", "grpo_flips")
            ]
            rows.append(
                [
                    arm,
                    name,
                    str(len(some)),
                    str(refused[arm]),
                    f"{np.mean(jumps):.2f}",
                    f"{max(jumps):.2f}",
                    f"{np.exp(np.mean(np.log(sizes))):.2f}",
                    *(f"{100 * share:.1f}%" for share in shares),
                ]
            )
    return aligned(rows, (0, 1))


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(_parser(), continuity, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        "continuity",
        "What PPO and GRPO learners see when the reward model is swapped, by raw rewards and by calibrated "
        "scores: jumps of the mean score, and advantages that change sign. Writes continuity.json.",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--rounds", type=int, default=PLAN.rounds, help="rounds, retrains between")
    parser.add_argument("--arms", default=",".join(ARMS), help="arms, as of experiments/simulate")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, one thread each")
    parser.add_argument(
        "--out", type=Path, default=Path("data/continuity"), help="folder for continuity.json and first models"
    )
    return parser


def continuity(options: argparse.Namespace) -> None:
    """Run every seed and arm; print the table, write continuity.json. Raises what a run raises."""
    command_line.at_least(0, first_seed=options.first_seed)
    command_line.at_least(1, seeds=options.seeds, workers=options.workers)
    command_line.at_least(2, rounds=options.rounds)
    arms = [arm_named(name).name for name in options.arms.split(",")]
    started = time.monotonic()
    plan = replace(PLAN, rounds=options.rounds)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    swaps, refused = _run_all(plan, arms, seeds, options.workers, options.out / "models")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "continuity.json"
    file.write_bytes(orjson.dumps([asdict(each) for each in swaps], option=orjson.OPT_INDENT_2))
    print(
        f"{len(seeds)} seeds, {plan.rounds - 1} retrains each; {RECENT_UPDATES} updates in the running mean\n"
    )
    print(table(swaps, refused))
    print(f"\n{LEGEND}")
    print(f"{time.monotonic() - started:.0f} s; wrote {file}")


def _run_all(
    plan: StudyPlan, arms: Sequence[str], seeds: Sequence[int], workers: int, kept: Path
) -> tuple[list[Seen], dict[str, int]]:
    swaps: list[Seen] = []
    refused: dict[str, int] = defaultdict(int)
    with worker_pool(workers) as pool:
        firsts = pool.map(_first, *zip(*[(plan, seed, kept) for seed in seeds], strict=True))
        list(tqdm(firsts, "first models", len(seeds), unit="model", disable=None, leave=False))
        tasks = [(plan, arm, seed, kept) for seed in seeds for arm in arms]
        runs = pool.map(run, *zip(*tasks, strict=True))
        shown = tqdm(runs, "runs", len(tasks), unit="run", disable=None, leave=False)
        for (_, arm, _, _), (some, count) in zip(tasks, shown, strict=True):
            swaps += some
            refused[arm] += count
    swaps.sort(key=lambda each: (arms.index(each.arm), each.seed, each.version))
    return swaps, refused


def _first(plan: StudyPlan, seed: int, kept: Path) -> None:
    """Make the first model of `seed`, once, before its runs need it."""
    from experiments.closed_loop.first_model import first_model

    first_model(plan, seed, kept)


def _raw(scores: Scores, calibration: Calibration) -> Scores:
    return (scores - calibration.shift) / calibration.scale


if __name__ == "__main__":
    sys.exit(main())
