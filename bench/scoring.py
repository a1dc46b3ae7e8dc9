"""`bench/score`: this server and its peers side by side: start → compare scores → measure in turn → report."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from bench import ours, report
from bench.arms import Arm, Batches, OfflineArm, Setting, wait_a_moment
from bench.limit import Limit
from bench.models import Kind, checkpoint
from bench.places import WORK
from bench.results import LoadResult, Results, aims
from bench.roster import BEFORE, ENVIRONMENTS, FLOAT32, MIXED, NAMES, PEERS, roster
from bench.system import system_aims
from bench.workload import FULL, QUICK, GeneratedGroups, Load, RealPairs, Request, Source, encoder_pairs
from metarm.errors import MetaRMError
from metarm.model.encoder_files import load_encoder
from metarm.model.reward_model import quiet_transformers

ROUNDS, QUICK_ROUNDS = 5, 2
WARM_UP_REQUESTS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, as the command line describes it."""

    loads: tuple[Load, ...]
    arms: frozenset[str]
    rounds: int
    data: Path | None
    batches: Batches
    before: Path | None


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end, however this ends
    given = _arguments()
    if given.install:
        for environment in set(ENVIRONMENTS.values()):
            environment.install()
        return
    sizes = QUICK if given.quick else FULL
    plan = Plan(
        loads=tuple(load for load in sizes if load.name in given.loads),
        arms=frozenset(given.arms) | ({BEFORE} if given.before else set()),
        rounds=given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS),
        data=given.data,
        batches=given.peer_batches,
        before=given.before,
    )
    started = time.monotonic()
    results = run(plan)
    print("\n" + report.tables(results))
    found = aims(results, sorted(MIXED), PEERS)
    if given.system:
        with tempfile.TemporaryDirectory(prefix="system-", dir=WORK) as folder:
            found += system_aims(Path(folder), given.quick)
    for model, arm, why in results.refused:
        print(f"\nnot timed: {arm} ({model}): {why}")
    print(f"\n{report.aims_table(found)}\n\n{plan.rounds} rounds, {time.monotonic() - started:.0f} s")
    if given.out:
        report.write(given.out, results, found, _record(plan))


def run(plan: Plan) -> Results:
    """Measure every load on every arm, one model after the other; all arms of a model run at once."""
    quiet_transformers()
    results = Results()
    WORK.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=WORK))
    try:
        for kind in dict.fromkeys(load.model for load in plan.loads):
            _run_model(kind, plan, folder / kind, results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def _run_model(kind: Kind, plan: Plan, folder: Path, results: Results) -> None:
    setting = Setting(checkpoint(kind), folder, plan.batches, plan.before)
    loads = [load for load in plan.loads if load.model == kind]
    names = {load.name for load in loads}
    source = _source(setting, plan.data)
    expected = _expected(setting, _check_requests(kind, source))
    with ExitStack() as blocks:
        limit = blocks.enter_context(Limit(setting.checkpoint, folder / "limit"))
        arms = []
        for arm in roster(kind, setting):
            if arm.name not in plan.arms or not arm.loads & names:
                continue
            try:
                blocks.enter_context(arm)
                _check(arm, kind, source, expected, results)
                _warm_up(arm, loads, source)
                arms.append(arm)
            except (MetaRMError, RuntimeError, OSError) as error:
                results.refused.append((kind, arm.name, str(error)))
                _say(f"{arm.name} ({kind}) is not timed: {error}")
        rounds = [(number, load) for number in range(plan.rounds) for load in loads if number % load.every == 0]
        for number, load in tqdm(rounds, f"loads, {kind}", unit="load", disable=None, leave=False):
            _measure_load(number, load, arms, source, limit, results)


def _measure_load(
    number: int, load: Load, arms: list[Arm], source: Source, limit: Limit, results: Results
) -> None:
    """One load in one round: the limit, then each arm in turn; another arm is first in each round."""
    requests = source.requests(load, f"round {number}")
    result = results.loads.setdefault(load.name, LoadResult(load))
    lengths = [size for request in requests for size in request.tokens]
    rate = limit.measure()
    result.rates[number] = rate
    result.limits[number] = limit.tokens_per_s(rate, lengths)
    taking_part = [arm for arm in arms if load.name in arm.loads]
    first = number % max(1, len(taking_part))
    for arm in taking_part[first:] + taking_part[:first]:
        wait_a_moment()
        try:
            measurement = arm.measure(load, requests)
        except (MetaRMError, RuntimeError, OSError) as error:
            results.refused.append((load.name, arm.name, str(error)))
            arms.remove(arm)
            _say(f"{arm.name} failed on {load.name}: {error}")
            continue
        result.cells.setdefault(arm.name, {})[number] = measurement
        _say(
            f"round {number + 1}  {load.name:6} {arm.name:17} {measurement.texts_per_s:7.1f} texts/s "
            f"{measurement.tokens_per_s:8,.0f} tokens/s  {measurement.wall_s:5.1f} s"
        )


def _say(line: str) -> None:
    """Print a line on stdout, above the progress bar if there is one."""
    with tqdm.external_write_mode():
        print(line, flush=True)


def _source(setting: Setting, data: Path | None) -> Source:
    made = setting.checkpoint
    if made.kind == "causal":
        return GeneratedGroups()
    return RealPairs(data, load_encoder(made.path, made.max_tokens)) if data else encoder_pairs()


def _check_requests(kind: Kind, source: Source) -> list[Request]:
    """Texts of every length, alone and in groups."""
    alone, group = Load("check", kind, 8, 1, 24), Load("check-group", kind, 8, 12, 1)
    if kind == "causal":
        alone, group = replace(alone, requests=2), replace(group, responses=4, requests=2)
    return source.requests(alone, "check") + source.requests(group, "check")


def _expected(setting: Setting, requests: Sequence[Request]) -> list[list[float]]:
    """The reference scores: those of the offline forward."""
    with OfflineArm("reference", frozenset(), FLOAT32, lambda: ours.offline(setting)) as reference:
        return reference.scores(requests, 1)


def _check(arm: Arm, kind: Kind, source: Source, expected: list[list[float]], results: Results) -> None:
    """Raises RuntimeError where the arm's scores differ from the reference by more than its tolerance."""
    found = arm.scores(_check_requests(kind, source), 8)
    pairs = zip(expected, found, strict=True)
    difference = max(abs(a - b) for ours_, theirs in pairs for a, b in zip(ours_, theirs, strict=True))
    results.differences.setdefault(kind, {})[arm.name] = difference
    print(f"{arm.name} ({kind}): scores within {difference:.1e} of the reference", flush=True)
    if not difference <= arm.tolerance:
        raise RuntimeError(
            f"a score differs from the reference by {difference:.2e}, more than {arm.tolerance:g}"
        )


def _warm_up(arm: Arm, loads: Sequence[Load], source: Source) -> None:
    """Send a few requests of every load's size, so that threads, caches and memory exist before timing."""
    for load in {load.responses: load for load in loads if load.name in arm.loads}.values():
        requests = WARM_UP_REQUESTS if load.responses == 1 else 1
        arm.scores(source.requests(replace(load, requests=requests), "warm-up"), min(8, load.connections))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/score", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller loads, two rounds: under ten minutes")
    parser.add_argument(
        "--arms",
        type=_names(NAMES),
        default=NAMES,
        help=f"default: {','.join(NAMES)}",
    )
    loads = tuple(load.name for load in FULL)
    parser.add_argument(
        "--loads",
        type=_names(loads),
        default=loads,
        help=f"default: {','.join(loads)}",
    )
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}; {QUICK_ROUNDS} with --quick")
    parser.add_argument(
        "--peer-batches",
        choices=get_args(Batches),
        default="best",
        help="batch sizes of the peers: the fastest found on CPU (default), or their own defaults",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of preference or group files: real texts",
    )
    parser.add_argument(
        "--before",
        type=_checkout,
        help="another checkout of this project: its service is one more arm",
    )
    parser.add_argument("--out", type=Path, help="file to write every measurement to, as JSON")
    parser.add_argument(
        "--system",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure the training step, start and memory",
    )
    parser.add_argument("--install", action="store_true", help="install the peers and exit")
    return parser.parse_args()


def _names(known: Sequence[str]) -> Any:
    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
        return chosen

    return names


def _checkout(text: str) -> Path:
    folder = Path(text).resolve()
    if not (folder / "service" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text}: not a checkout of this project")
    return folder


def _record(plan: Plan) -> dict[str, Any]:
    return {
        "loads": [load.name for load in plan.loads],
        "arms": sorted(plan.arms),
        "rounds": plan.rounds,
        "peer_batches": plan.batches,
        "texts": "real" if plan.data else "generated",
    }


if __name__ == "__main__":
    main()
