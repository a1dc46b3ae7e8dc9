"""`experiments/drill`: force hacked reward models through on private servers; tables and drill.json."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
from tqdm import tqdm

from experiments import command_line
from experiments.closed_loop.jobs import in_worker
from experiments.hacked.plan import DrillPlan
from experiments.hacked.play import Drill, play
from experiments.hacked.sabotage import SABOTAGES, spoiled
from experiments.hacked.tables import story, summary
from metarm.errors import ConfigurationError
from simulation.private_server import PrivateServer

SERVICE = {"METARM_TUNE": "false", "METARM_TRAIN_PRIORITY": "low", "METARM_LOG_LEVEL": "WARNING"}


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(_parser(), drill, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        "drill",
        "A policy is optimised on what a private server serves; meanwhile a reward model trained on spoiled "
        "preferences is forced through, and the watch may roll it back. The same policy is then optimised on "
        "each version alone: had the hacked model stayed, and had it never come. Writes drill.json.",
    )
    plan = DrillPlan()
    kinds = "; ".join(f"{name}: {sabotage.says}" for name, sabotage in SABOTAGES.items())
    parser.add_argument(
        "--hacked",
        default=plan.sabotage,
        help=f"what the hacked model is trained on: names separated by commas, or all; {kinds}",
    )
    parser.add_argument("--seed", type=int, default=plan.seed, help="seed of prompts, responses and training")
    parser.add_argument("--before", type=int, default=plan.before, help="policy updates before it is forced")
    parser.add_argument("--after", type=int, default=plan.after, help="policy updates after that")
    parser.add_argument(
        "--watch-groups",
        type=int,
        default=argparse.SUPPRESS,
        help="METARM_WATCH_GROUPS of the private server; 0: no watch (default: the service's own)",
    )
    parser.add_argument(
        "--watch-share",
        type=float,
        default=argparse.SUPPRESS,
        help="share of prompts that the parent scores too, forced or not (default: the service's own)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/drill"), help="folder for drill.json and first models"
    )
    return parser


def drill(options: argparse.Namespace) -> None:
    """Play one drill after another, each on a server of its own.

    Raises ConfigurationError for options that cannot be played, and MetaRMError for what the server refuses.
    """
    kinds = list(SABOTAGES) if options.hacked == "all" else options.hacked.split(",")
    unknown = [kind for kind in kinds if kind not in SABOTAGES]
    if unknown:
        raise ConfigurationError(f"there is no sabotage {unknown[0]!r}; there are {', '.join(SABOTAGES)}")
    command_line.at_least(0, seed=options.seed)
    command_line.at_least(1, before=options.before, after=options.after)
    drills = []
    for kind in kinds:
        plan = DrillPlan(kind, options.seed, options.before, options.after, service=_watch_settings(options))
        with tqdm(
            desc=kind, total=plan.updates + 2 * plan.after, unit="update", disable=None, leave=False
        ) as bar:
            drills.append(run(plan, options.out / "models", bar.update))
        print(f"{story(drills[-1])}\n", flush=True)
    if len(drills) > 1:
        print(f"{summary(drills)}\n")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "drill.json"
    file.write_bytes(orjson.dumps([one.as_json() for one in drills], option=orjson.OPT_INDENT_2))
    print(f"wrote {file}")


def _watch_settings(options: argparse.Namespace) -> dict[str, str]:
    """The options of the watch that were given, as environment variables of the service."""
    settings = {}
    if "watch_groups" in options:
        settings["METARM_WATCH_GROUPS"] = str(options.watch_groups)
    if "watch_share" in options:
        settings |= dict.fromkeys(("METARM_WATCH_SHARE", "METARM_WATCH_FORCED_SHARE"), str(options.watch_share))
    return settings


def run(plan: DrillPlan, kept: Path, on_update: Callable[[], object]) -> Drill:
    """One drill on a private server with its versions in a temporary folder; `kept` holds first models.

    The first version is trained on honest preferences and published as a trainer publishes it. The server then
    starts on that store with the spoiled preferences. It needs no intervention during the drill: the hacked
    version comes as every version does, by POST /retrain.
    """
    with tempfile.TemporaryDirectory(prefix="metarm-drill-") as name:
        folder = Path(name)
        environment = in_worker(prepared, plan, kept, folder)
        with PrivateServer(folder, {**SERVICE, **plan.service, **environment}) as server:
            return play(plan, server.url, on_update)


def prepared(plan: DrillPlan, kept: Path, folder: Path) -> dict[str, str]:
    """Publish the honest version in `folder`/data and write the spoiled preferences next to it; returns the
    environment variables of a trainer that continues from there."""
    from experiments.closed_loop.first_model import first_model, first_version
    from experiments.closed_loop.served import trainer_environment

    first = first_model(plan.world, plan.seed, kept)
    first_version(plan.world, first, folder / "data")
    preferences = folder / "spoiled.jsonl.gz"
    preferences.write_bytes(spoiled(first.preferences.read_bytes(), SABOTAGES[plan.sabotage]))
    return trainer_environment(plan.world, first.checkpoint, preferences)


if __name__ == "__main__":
    sys.exit(main())
