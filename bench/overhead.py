"""`bench/overhead`: the cost of the page and of /metrics to scoring at full load.

The same requests are repeated without viewers, and with one and three viewers of the page while /metrics is
scraped. The arms take turns in one run; another arm is first in each round. There are two loads: the
benchmarks' encoder, which the forward bounds, and the same requests from the score cache, which the event loop
bounds.

The table also shows the server's CPU time per score, on which other work on the machine has little effect.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
from tqdm import tqdm

from bench import ours
from bench.load import Job, run
from bench.machine import write_record
from bench.models import checkpoint, publish_copies
from bench.places import WORK
from bench.processes import Server, Worker
from bench.results import quantile
from bench.viewers import Audience
from bench.workload import Load, encoder_pairs
from metarm.runtime.embedded_redis import EmbeddedRedis
from metarm.runtime.tables import aligned

AIM = 0.98  # scores a second with the page open and /metrics scraped ÷ without viewers
TEXTS, CONNECTIONS, STEPS = 4, 8, 32
VERSIONS = 3  # each has scored, so that the page shows figures of each
PASSES_OF_CACHED = 30  # over the same requests: one pass takes a fraction of a second
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    viewers: int
    scrape_s: float


ARMS = (Arm("nobody looks", 0, 0.0), Arm("1 viewer, scraped", 1, 5.0), Arm("3 viewers, scraped", 3, 5.0))


@dataclass(slots=True)
class Found:
    """By load and arm: scores a second, the server's CPU seconds per score, and p99 seconds, of each round; the
    number of other requests by path."""

    rates: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cpu_s: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    p99_s: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    asked: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end, however this ends
    parser = argparse.ArgumentParser(
        prog="bench/overhead", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="measurements of each arm")
    parser.add_argument("--requests", type=int, default=72, help=f"requests of {TEXTS} texts per measurement")
    parser.add_argument("--out", type=Path, help="file to write every measurement to, as JSON")
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    started = time.monotonic()
    found = Found()
    for load, cache, passes in (("encoder", 0, 1), ("cached", 65_536, PASSES_OF_CACHED)):
        with tempfile.TemporaryDirectory(dir=WORK) as folder, _server(Path(folder), cache) as server:
            bodies = _bodies(options.requests) * passes
            _measure(load, server, bodies, Path(folder), options.rounds, found)
    print(report(found))
    print(f"\n{options.rounds} rounds, {time.monotonic() - started:.0f} s")
    write_record(options, asdict(found))


@contextlib.contextmanager
def _server(folder: Path, cache_entries: int) -> Iterator[Server]:
    """A service and its Redis; versions of the same weights, each with figures of many policy steps."""
    store = publish_copies(checkpoint("encoder"), folder, VERSIONS)
    redis = EmbeddedRedis(folder / "redis")
    with (
        ours.redis_process(redis, folder),
        ours.server(folder, redis, METARM_SCORE_CACHE_ENTRIES=str(cache_entries)) as server,
    ):
        _fill(server.url, store.names())
        yield server


def _fill(url: str, versions: Sequence[str]) -> None:
    """Let every version score groups of many policy steps, so that the page has figures to show."""
    with httpx.Client(base_url=url, timeout=120.0) as http:
        for version in versions:
            for step in range(STEPS):
                groups = [{"prompt": f"Step {step}?", "responses": ["one", "two three", "four"]}] * 4
                body = {"groups": groups, "version": version, "policy": {"name": "actor", "step": step}}
                http.post("/score", json=body).raise_for_status()


def _bodies(count: int) -> list[str]:
    requests = encoder_pairs().requests(Load("overhead", "encoder", CONNECTIONS, TEXTS, count), "overhead")
    return [
        orjson.dumps(ours.body(request, policy={"name": "actor", "step": number % STEPS})).decode()
        for number, request in enumerate(requests)
    ]


def _measure(load: str, server: Server, bodies: list[str], folder: Path, rounds: int, found: Found) -> None:
    url, scores = server.url, TEXTS * len(bodies)
    rates = found.rates.setdefault(load, {arm.name: [] for arm in ARMS})
    cpu_s = found.cpu_s.setdefault(load, {arm.name: [] for arm in ARMS})
    tails = found.p99_s.setdefault(load, {arm.name: [] for arm in ARMS})
    asked = found.asked.setdefault(load, {arm.name: {} for arm in ARMS})
    with Worker([sys.executable, "-m", "bench.viewers"], folder / "viewers", {}) as viewers:
        run(Job(f"{url}/score", CONNECTIONS, bodies))  # warms up threads, caches and memory
        for number in tqdm(range(rounds), f"rounds, {load}", disable=None, leave=False):
            first = number % len(ARMS)
            for arm in ARMS[first:] + ARMS[:first]:
                viewers.ask(asdict(Audience(url, arm.viewers, arm.scrape_s)))
                time.sleep(1.0)  # opening the page is not measured
                before_s = server.cpu_s()
                outcome = run(Job(f"{url}/score", CONNECTIONS, bodies))
                cpu_s[arm.name].append((server.cpu_s() - before_s) / scores)
                others = viewers.ask(asdict(Audience(url, 0, 0.0)))["asked"]
                asked[arm.name] = dict(Counter(asked[arm.name]) + Counter(others))
                rates[arm.name].append(scores / outcome.wall_s)
                tails[arm.name].append(quantile(outcome.latencies_s, 0.99) or 0.0)
            tqdm.write(f"{load}, round {number + 1}: {_line(rates)}")


def report(found: Found) -> str:
    rows: list[tuple[str, ...]] = [
        (
            "load",
            "viewers",
            "scores/s",
            "from",
            "to",
            "÷ nobody",
            "95%",
            "CPU ÷ nobody",
            "95%",
            "p99 ms",
            "asked",
        )
    ]
    for load, rates in found.rates.items():
        for arm in ARMS:
            measured = rates[arm.name]
            rows.append(
                (
                    load,
                    arm.name,
                    f"{statistics.median(measured):.1f}",
                    f"{min(measured):.1f}",
                    f"{max(measured):.1f}",
                    *_compared(rates, arm),
                    *_compared(found.cpu_s[load], arm),
                    f"{1000 * statistics.median(found.p99_s[load][arm.name]):.0f}",
                    str(sum(found.asked[load][arm.name].values())),
                )
            )
    note = (
        f"÷ nobody: scores a second ÷ those without viewers, median over rounds (aim: at least {AIM}); "
        "CPU ÷ nobody: the same of the server's CPU time per score; asked: other requests, all rounds"
    )
    return f"{aligned(rows, left=(0, 1))}\n\n{note}"


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The 95% bootstrap interval of the median over rounds."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[round(0.025 * RESAMPLES)], medians[round(0.975 * RESAMPLES) - 1]


def _compared(figures: dict[str, list[float]], arm: Arm) -> tuple[str, str]:
    """The median ratio of an arm's figures to those without viewers, and its interval."""
    if not arm.viewers:
        return "1", ""
    ratios = _ratios(figures, arm)
    low, high = interval(ratios)
    return f"{statistics.median(ratios):.4f}", f"{low:.4f} to {high:.4f}"


def _ratios(figures: dict[str, list[float]], arm: Arm) -> list[float]:
    """For each round, this arm's figure ÷ that without viewers."""
    return [own / alone for own, alone in zip(figures[arm.name], figures[ARMS[0].name], strict=True)]


def _line(rates: dict[str, list[Any]]) -> str:
    return ", ".join(f"{name} {measured[-1]:.1f}" for name, measured in rates.items())


if __name__ == "__main__":
    main()
