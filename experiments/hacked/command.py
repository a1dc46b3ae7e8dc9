"""`metarm drill`: private servers on which hacked reward models are forced through; tables, and one JSON."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import orjson
from tqdm import tqdm

from experiments.closed_loop.jobs import in_worker
from experiments.hacked.plan import DrillPlan
from experiments.hacked.play import Drill, play
from experiments.hacked.report import story, summary
from experiments.hacked.sabotage import SABOTAGES, spoiled
from metarm.errors import ConfigurationError
from simulation.private_server import PrivateServer

SERVICE = {"METARM_TUNE": "false", "METARM_TRAIN_PRIORITY": "low", "METARM_LOG_LEVEL": "WARNING"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `metarm drill` takes."""
    plan = DrillPlan()
    kinds = "; ".join(f"{name}: {sabotage.says}" for name, sabotage in SABOTAGES.items())
    parser.add_argument(
        "--hacked",
        default=plan.sabotage,
        help=f"what the hacked model is trained on, separated by commas, or all; {kinds}",
    )
    parser.add_argument("--seed", type=int, default=plan.seed, help="seed of prompts, responses and training")
    parser.add_argument("--before", type=int, default=plan.before, help="policy updates before it is forced")
    parser.add_argument("--after", type=int, default=plan.after, help="and after")
    parser.add_argument(
        "--watch-groups",
        type=int,
        default=argparse.SUPPRESS,
        help="METARM_WATCH_GROUPS of the private server; 0: it watches nothing (default: the service's own)",
    )
    parser.add_argument(
        "--watch-share",
        type=float,
        default=argparse.SUPPRESS,
        help="share of prompts that the parent scores as well, forced or not (default: the service's own)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/drill"), help="folder for drill.json and first models"
    )


def drill(options: argparse.Namespace) -> None:
    """Play one drill after another, each on a server of its own. Raises ConfigurationError for what cannot
    be played, and what the server refuses."""
    kinds = list(SABOTAGES) if options.hacked == "all" else options.hacked.split(",")
    unknown = [kind for kind in kinds if kind not in SABOTAGES]
    if unknown:
        raise ConfigurationError(f"there is no sabotage {unknown[0]!r}; there are {', '.join(SABOTAGES)}")
    for name, value, least in (
        ("--seed", options.seed, 0),
        ("--before", options.before, 1),
        ("--after", options.after, 1),
    ):
        if value < least:
            raise ConfigurationError(f"{name} must be at least {least}")
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
    """What is given of the watch, as settings of the service."""
    settings = {}
    if "watch_groups" in options:
        settings["METARM_WATCH_GROUPS"] = str(options.watch_groups)
    if "watch_share" in options:
        settings |= dict.fromkeys(("METARM_WATCH_SHARE", "METARM_WATCH_FORCED_SHARE"), str(options.watch_share))
    return settings


def run(plan: DrillPlan, kept: Path, on_update: Callable[[], object]) -> Drill:
    """One drill on a private server, whose versions are in a temporary folder; `kept` keeps first models.

    The first version is made from honest preferences, and published as a trainer publishes it. The server is
    then started on that store with the spoiled preferences: so nothing of it is stopped or told anything in
    the drill, and the hacked version comes the way every version comes, by POST /retrain.
    """
    with tempfile.TemporaryDirectory(prefix="metarm-drill-") as name:
        folder = Path(name)
        environment = in_worker(prepared, plan, kept, folder)
        with PrivateServer(folder, {**SERVICE, **plan.service, **environment}) as server:
            return play(plan, server.url, on_update)


def prepared(plan: DrillPlan, kept: Path, folder: Path) -> dict[str, str]:
    """Publish the honest version in `folder`/data, write the spoiled preferences beside it; what a trainer
    that goes on from there is set by."""
    from experiments.closed_loop.first_model import first_model, first_version
    from experiments.closed_loop.served import trainer_environment

    first = first_model(plan.world, plan.seed, kept)
    first_version(plan.world, first, folder / "data")
    preferences = folder / "spoiled.jsonl.gz"
    preferences.write_bytes(spoiled(first.preferences.read_bytes(), SABOTAGES[plan.sabotage]))
    return trainer_environment(plan.world, first.checkpoint, preferences)
