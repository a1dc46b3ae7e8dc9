"""`python -m simulation`: preferences, the demo against a running server, the drill, the closed loop and its
report."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from experiments.closed_loop import command, report_command
from experiments.hacked import command as drill_command
from metarm.client import RewardClient
from metarm.errors import ConfigurationError, MetaRMError
from simulation.demo import run_demo
from simulation.optimise import Pressure
from simulation.preferences import write_preferences
from simulation.rounds import Plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the server refused or did not answer, 2 wrong arguments, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        COMMANDS[options.command](options)
    except (MetaRMError, TimeoutError, OSError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _preferences(options: argparse.Namespace) -> None:
    write_preferences(options.out, options.pairs, options.seed, options.noise)
    print(f"{options.pairs} pairs, {options.out.stat().st_size:,} bytes: {options.out}")


def _demo(options: argparse.Namespace) -> None:
    try:
        from simulation.figure import draw, save
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is missing: pip install 'metarm-server[demo]'") from error

    plan = Plan(
        rounds=options.rounds,
        prompts=options.prompts,
        responses=options.responses,
        measured_prompts=options.measured_prompts,
        measure_every=options.measure_every,
        seed=options.seed,
        pressure=Pressure(learning_rate=options.learning_rate, kl_weight=options.kl_weight),
    )
    retrain = {"steps": options.retrain_steps} if "retrain_steps" in options else {}
    with RewardClient(options.url, retries=1) as client:
        client.ready()  # a server that is not there is told at once, without the retries of a long run
    options.out.mkdir(parents=True, exist_ok=True)
    key = getattr(options, "api_key", None) or os.environ.get("METARM_API_KEY")
    with RewardClient(options.url, api_key=key) as client:
        outcome = run_demo(client, plan, retrain, options.retrain_timeout, sys.stdout)

    figures, picture = options.out / "demo.json", options.out / "demo.png"
    figures.write_bytes(orjson.dumps(outcome.as_json(), option=orjson.OPT_INDENT_2))
    after = str(outcome.job["candidate"]) if outcome.second_looks else None
    save(draw(outcome.checkpoints, outcome.second_looks, outcome.version, after), picture)
    print(f"\nwrote {figures} and {picture}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulation",
        description="A closed RLHF loop in a text world whose gold reward is known exactly.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shown = argparse.ArgumentDefaultsHelpFormatter

    preferences = commands.add_parser(
        "preferences",
        help="write labelled pairs from the initial policy",
        description="Write labelled pairs as gzipped JSON lines {prompt, chosen, rejected} (TRL's columns). "
        "The same seed gives the same bytes.",
        formatter_class=shown,
    )
    preferences.add_argument("--out", type=Path, required=True, help="file to write, .jsonl.gz")
    preferences.add_argument("--pairs", type=_positive, default=2400, help="how many pairs")
    preferences.add_argument("--seed", type=int, default=0, help="seed of prompts, responses and labels")
    preferences.add_argument("--noise", type=float, default=0.6, help="Bradley-Terry label noise, gold points")

    demo = commands.add_parser(
        "demo",
        help="train a policy on a running server's scores, retrain the reward model, measure both",
        description="Play an RL worker against a running server: a policy is optimised on the served scores "
        "and drifts; then the server retrains on the logged samples, and the same responses are scored by "
        "the new version. Prints a table; writes demo.json and demo.png.",
        formatter_class=shown,
    )
    plan = Plan()
    demo.add_argument("--url", default="http://127.0.0.1:8080", help="address of the server")
    demo.add_argument(
        "--api-key", default=argparse.SUPPRESS, help="an admin key, if the server has keys (or METARM_API_KEY)"
    )
    demo.add_argument("--seed", type=int, default=plan.seed, help="seed of prompts, responses and bootstrap")
    demo.add_argument("--rounds", type=_positive, default=plan.rounds, help="policy updates")
    demo.add_argument("--prompts", type=_positive, default=plan.prompts, help="prompts in a round")
    demo.add_argument("--responses", type=_two_or_more, default=plan.responses, help="responses to a prompt")
    demo.add_argument(
        "--measured-prompts", type=_positive, default=plan.measured_prompts, help="held-out prompts"
    )
    demo.add_argument(
        "--measure-every", type=_positive, default=plan.measure_every, help="rounds between measurements"
    )
    demo.add_argument(
        "--learning-rate", type=float, default=plan.pressure.learning_rate, help="the policy's, in REINFORCE"
    )
    demo.add_argument(
        "--kl-weight", type=float, default=plan.pressure.kl_weight, help="penalty per nat, in reward deviations"
    )
    demo.add_argument(
        "--retrain-steps",
        type=_positive,
        default=argparse.SUPPRESS,
        help="updates of the retrain (default: the server's own)",
    )
    demo.add_argument("--retrain-timeout", type=float, default=1800.0, help="seconds to wait for the retrain")
    demo.add_argument("--out", type=Path, default=Path("data/demo"), help="folder for demo.json and demo.png")
    drill = commands.add_parser(
        "drill",
        help="force a hacked reward model through on a private server, and see the watch take it back",
        description="A policy is optimised on what a private server serves; a reward model trained on spoiled "
        "preferences is forced through in the middle of it, and the watch is left to take it back. Then the "
        "same policy once more, had the hacked model stayed, and had it never come. Writes drill.json.",
        formatter_class=shown,
    )
    drill_command.add_arguments(drill)
    simulate = commands.add_parser(
        "simulate",
        help="rounds of optimisation and retraining, arm by arm, and what they say of the paper's claims",
        description="The closed loop: a policy is optimised on a reward model, the reward model is retrained "
        "on the policy's samples, and so on, with every way to retrain. Prints tables; writes study.json.",
        formatter_class=shown,
    )
    command.add_arguments(simulate)
    report = commands.add_parser(
        "report",
        help="the paper's figures from our runs",
        description="The paper's figures and tables, from what `metarm simulate` wrote: PNG and one HTML page.",
        formatter_class=shown,
    )
    report_command.add_arguments(report)
    return parser


COMMANDS = {
    "preferences": _preferences,
    "demo": _demo,
    "drill": drill_command.drill,
    "simulate": command.simulate,
    "report": report_command.report,
}


def _positive(text: str) -> int:
    return _at_least(1, text)


def _two_or_more(text: str) -> int:
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}")
    return value
