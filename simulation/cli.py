"""The command line of `metarm demo`: its arguments, the files it writes, its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import orjson

from metarm import api_keys
from metarm.client import RewardClient
from metarm.errors import EXIT_CONFIGURATION, ConfigurationError, MetaRMError
from metarm.runtime.closed_pipe import ends_quietly
from metarm.runtime.unknown_settings import print_unknown_settings
from simulation.demo import Outcome, run_demo
from simulation.optimise import Pressure
from simulation.rounds import Plan


@ends_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the server refused or did not answer, 2 wrong arguments, 78 an API key that no
    header can carry, 130 interrupted."""
    options = _parser().parse_args(arguments)
    print_unknown_settings("metarm demo")
    try:
        _demo(options, _api_key(options))
    except ConfigurationError as error:
        print(f"metarm demo: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except BrokenPipeError:
        raise
    except (MetaRMError, TimeoutError, OSError) as error:
        print(f"metarm demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("metarm demo: interrupted", file=sys.stderr)
        return 130
    return 0


def _api_key(options: argparse.Namespace) -> str | None:
    """The key of the command line, else METARM_API_KEY unless it is empty. Raises ConfigurationError."""
    key = getattr(options, "api_key", None)
    source = "--api-key" if key is not None else "METARM_API_KEY"
    key = key if key is not None else os.environ.get(source) or None
    fault = None if key is None else api_keys.fault_of(key)
    if fault is not None:
        raise ConfigurationError(f"the key of {source} {fault}")
    return key


def _demo(options: argparse.Namespace, key: str | None) -> None:
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
        client.ready()  # an unreachable server fails at once, without the retries of a long run
    options.out.mkdir(parents=True, exist_ok=True)
    draws = find_spec("matplotlib") is not None
    if not draws:
        print("no demo.png without matplotlib: pip install 'metarm-server[demo]'", file=sys.stderr)
    with RewardClient(options.url, api_key=key) as client:
        outcome = run_demo(client, plan, retrain, options.retrain_timeout, sys.stdout)
    written = [options.out / "demo.json"]
    written[0].write_bytes(orjson.dumps(outcome.as_json(), option=orjson.OPT_INDENT_2))
    if draws:
        written.append(options.out / "demo.png")
        _draw(outcome, written[1])
    print(f"\nwrote {' and '.join(map(str, written))}")


def _draw(outcome: Outcome, file: Path) -> None:
    from simulation.figure import draw, save

    after = str(outcome.job["candidate"]) if outcome.rescorings else None
    save(draw(outcome.checkpoints, outcome.rescorings, outcome.version, after), file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metarm demo",
        description="Play an RL worker against a running server: a policy is optimised on the served scores "
        "and drifts; then the server retrains on the logged samples, and the new version scores the same "
        "responses. Prints a table; writes demo.json and, with matplotlib, demo.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, plan = parser.add_argument, Plan()
    add("--url", default="http://127.0.0.1:8080", help="address of the server")
    add(
        "--api-key",
        default=argparse.SUPPRESS,
        help="an admin key, if the server has keys (default: METARM_API_KEY)",
    )
    add("--seed", type=int, default=plan.seed, help="seed of prompts, responses and bootstrap")
    add("--rounds", type=_positive, default=plan.rounds, help="policy updates")
    add("--prompts", type=_positive, default=plan.prompts, help="prompts in a round")
    add("--responses", type=_two_or_more, default=plan.responses, help="responses to a prompt")
    add("--measured-prompts", type=_positive, default=plan.measured_prompts, help="held-out prompts")
    add("--measure-every", type=_positive, default=plan.measure_every, help="rounds between measurements")
    add("--learning-rate", type=float, default=plan.pressure.learning_rate, help="the policy's, in REINFORCE")
    add(
        "--kl-weight", type=float, default=plan.pressure.kl_weight, help="penalty per nat, in reward deviations"
    )
    add(
        "--retrain-steps",
        type=_positive,
        default=argparse.SUPPRESS,
        help="updates of the retrain (default: the server's own)",
    )
    add("--retrain-timeout", type=float, default=1800.0, help="seconds to wait for the retrain")
    add("--out", type=Path, default=Path("data/demo"), help="folder for demo.json and demo.png")
    return parser


def _positive(text: str) -> int:
    return _at_least(1, text)


def _two_or_more(text: str) -> int:
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}")
    return value
