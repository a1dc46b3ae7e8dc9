"""The command line of `metarm demo`: its arguments, the files it writes, its exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

import orjson

from metarm import api_keys
from metarm.client import RewardClient
from metarm.errors import EXIT_CONFIGURATION, ConfigurationError, MetaRMError
from metarm.runtime.closed_pipe import ends_quietly
from metarm.runtime.unknown_settings import print_unknown_settings
from simulation.demo import Outcome, changes, run_demo
from simulation.optimise import Pressure
from simulation.private_server import PrivateServer
from simulation.rounds import Plan

FIRST_VERSION_S = 1800.0  # minutes on two idle cores
FIRST_VERSION = (
    *("METARM_MODEL", "METARM_INIT_HEAD", "METARM_PREFERENCES", "PREFERENCES", "METARM_MAX_TOKENS"),
    *("METARM_TEMPLATE_DATE", "METARM_SPLIT_SPECIAL_TOKENS"),
)


class RefusedError(Exception):
    """The demo may not change the server of --url. `status` is the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@ends_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the server refused or did not answer, or the user said no, 2 wrong arguments or no
    terminal to ask on, 78 an API key that no header can carry, 130 interrupted, 128 + n ended by signal n."""
    parser = _parser()
    options = parser.parse_args(arguments)
    print_unknown_settings("metarm demo")
    if "api_key" in options and "url" not in options:
        parser.error("--api-key is for the server of --url; the private server has no keys")
    try:
        if "url" in options:
            _demo_at(options, _api_key(options))
        else:
            _demo_in_private(options)
    except RefusedError as error:
        print(f"metarm demo: {error}", file=sys.stderr)
        return error.status
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


def _demo_at(options: argparse.Namespace, key: str | None) -> None:
    """On the server of --url, once it may be changed. Raises RefusedError."""
    with RewardClient(options.url, retries=1) as client:
        state = client.ready()  # an unreachable server fails at once, without the retries of a long run
    if not options.yes:
        _ask(changes(_plan(options), options.url, str(state["version"])))
    _demo(options, options.url, key)


def _ask(what: str) -> None:
    """Ask on the terminal whether to go on. Raises RefusedError."""
    print(what, file=sys.stderr)
    if not sys.stdin.isatty():
        raise RefusedError("there is no terminal to ask on: --yes goes ahead; nothing was changed", 2)
    print("Go ahead? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError("nothing was changed", 1)


def _demo_in_private(options: argparse.Namespace) -> None:
    """On a server that lives as long as the demo. Of the user's settings it has those of the first version."""
    settings = {name: _absolute(os.environ[name]) for name in FIRST_VERSION if os.environ.get(name)}
    if "METARM_MODEL" in settings and not settings.keys() & {"METARM_PREFERENCES", "PREFERENCES"}:
        raise ConfigurationError("METARM_MODEL needs METARM_PREFERENCES too: the demo ends with a retrain")
    with _ended_by_signals(), _folder() as folder:
        server = PrivateServer(folder, {"METARM_TUNE": "false", **settings}, start_s=FIRST_VERSION_S)
        print(f"private server on {server.url}; its data and log are in {folder} until the demo ends")
        print("its first version may take minutes\n", flush=True)
        with server:
            _demo(options, server.url, None)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder for the private server, which ends within the block; says at the end that both are
    gone."""
    name = tempfile.mkdtemp(prefix="metarm-demo-")
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name)
        print(f"\nthe private server has stopped, and {name} is deleted", flush=True)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP, unless ignored, end this process by SystemExit, so that what it
    started ends too."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    taken = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _absolute(value: str) -> str:
    """A path of this working directory, made absolute; anything else as it is."""
    return str(Path(value).absolute()) if Path(value).exists() else value


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        rounds=options.rounds,
        prompts=options.prompts,
        responses=options.responses,
        measured_prompts=options.measured_prompts,
        measure_every=options.measure_every,
        seed=options.seed,
        pressure=Pressure(learning_rate=options.learning_rate, kl_weight=options.kl_weight),
    )


def _demo(options: argparse.Namespace, url: str, key: str | None) -> None:
    retrain = {"steps": options.retrain_steps} if "retrain_steps" in options else {}
    options.out.mkdir(parents=True, exist_ok=True)
    draws = find_spec("matplotlib") is not None
    if not draws:
        print("no demo.png without matplotlib: pip install 'metarm-server[demo]'", file=sys.stderr)
    with RewardClient(url, api_key=key) as client:
        outcome = run_demo(client, _plan(options), retrain, options.retrain_timeout, sys.stdout)
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
        description="Play an RL worker against a private server, which the command starts and ends: a policy "
        "is optimised on the served scores and drifts; then the server retrains on the logged samples, and the "
        "new version scores the same responses. Prints a table; writes demo.json and, with matplotlib, "
        "demo.png. "
        f"The first version of the private server follows {', '.join(FIRST_VERSION)}, as that of `metarm up`; "
        "no other setting applies.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, plan = parser.add_argument, Plan()
    add(
        "--url",
        default=argparse.SUPPRESS,
        help="use the server at this address instead; the demo changes it, so it asks first",
    )
    add("--yes", action="store_true", help="change the server of --url without asking")
    add(
        "--api-key",
        default=argparse.SUPPRESS,
        help="an admin key, if the server of --url has keys (default: METARM_API_KEY)",
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
