"""`bench/swap`: the latency of /score for steady clients, with and without swaps of versions.

The real service on the benchmarks' encoder, without its score cache. Periods with and without swaps take turns
in one run. A swap is `POST /versions/{v}/activate` of a version that is not in memory: verify, load, warm up,
then move the pointer. With --servers 2 both servers cut over together, and the clients use them in turn. Each
server then has cores of its own, as on a machine of its own: on shared cores, a server that loads a version
slows another one that scores, whatever the priority of its threads (--share-cores shows by how much).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import httpx
import orjson
from tqdm import tqdm

from bench import ours
from bench.machine import write_record
from bench.models import checkpoint, publish_copies
from bench.places import WORK
from bench.processes import Worker
from bench.results import quantile
from bench.steady import Period, Sent
from bench.workload import Load, encoder_pairs
from metarm.runtime.embedded_redis import EmbeddedRedis
from metarm.runtime.tables import aligned
from metarm.store.versions import VersionStore

AIM = 1.15  # p99 with swaps ÷ without
VERSIONS = 4  # activated in a ring while two stay in memory, so that each swap loads one
BODIES = 400


@dataclass(frozen=True, slots=True)
class Swap:
    """When the call began and when its answer came (time.monotonic())."""

    begun: float
    ended: float

    def share_overlapped_by(self, sent: Sent) -> float:
        """The share of this swap's time during which the request waited."""
        common = min(self.ended, sent.at + sent.took_s) - max(self.begun, sent.at)
        return max(0.0, common) / (self.ended - self.begun)


@dataclass(slots=True)
class Found:
    """The requests of each period without swaps and of the period with swaps that follows it; the swaps; the
    number of holds of new requests at cut-overs, and their seconds in total."""

    without: list[list[Sent]] = field(default_factory=list)
    during: list[list[Sent]] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    holds: int = 0
    held_s: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench/swap", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--servers", type=int, default=1, help="number of servers, on one store and one Redis")
    parser.add_argument("--share-cores", action="store_true", help="run all servers on all cores")
    parser.add_argument(
        "--rounds",
        type=int,
        default=4,
        help="rounds of one period without swaps and one with swaps",
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="length of a period")
    parser.add_argument("--swaps", type=int, default=3, help="swaps in a period")
    parser.add_argument("--clients", type=int, default=4, help="steady clients")
    parser.add_argument("--texts", type=int, default=4, help="texts in a request")
    parser.add_argument(
        "--share",
        type=float,
        default=0.5,
        help="rate of the clients, as a share of the highest that they reach",
    )
    parser.add_argument("--out", type=Path, help="file to write every request and swap to, as JSON")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= options.servers <= len(cores) and not options.share_cores:
        parser.error(
            f"--servers must be between 1 and {len(cores)}, the number of cores, without --share-cores"
        )
    each = [cores if options.share_cores else cores[n :: options.servers] for n in range(options.servers)]
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder, _servers(Path(folder), each) as urls:
        found = measure(urls, Path(folder), options)
    print(report(found))
    write_record(options, asdict(found))


@contextlib.contextmanager
def _servers(folder: Path, cores: Sequence[Sequence[int]]) -> Iterator[list[str]]:
    """A service on each set of cores, with one store of VERSIONS versions of the same weights and one Redis."""
    publish_copies(checkpoint("encoder"), folder, VERSIONS)
    redis = EmbeddedRedis(folder / "redis")
    with contextlib.ExitStack() as stack:
        stack.enter_context(ours.redis_process(redis, folder))
        urls = []
        for number, of_server in enumerate(cores):
            server = ours.server(folder, redis, f"service-{number}", METARM_KEEP_LOADED="2")
            with _on(of_server):
                urls.append(stack.enter_context(server).url)
        yield urls


@contextlib.contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """Processes that start inside the block run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(urls: Sequence[str], folder: Path, options: argparse.Namespace) -> Found:
    requests = encoder_pairs().requests(Load("swap", "encoder", 1, options.texts, BODIES), "swap")
    bodies = [orjson.dumps(ours.body(request, log=False)).decode() for request in requests]
    found = Found()
    with Worker([sys.executable, "-m", "bench.steady"], folder / "clients", {}) as clients:

        def period(seconds: float, interval_s: float) -> list[Sent]:
            asked = Period(list(urls), bodies, options.clients, seconds, interval_s)
            return [Sent(**sent) for sent in clients.ask(asdict(asked))["sent"]]

        period(2.0, 0.0)
        at_most = len(period(4.0, 0.0)) / 4.0
        interval_s = options.clients / (options.share * at_most)
        print(f"at most {at_most:.1f} requests of {options.texts} texts a second; sent: {options.share:.0%}")
        names = VersionStore(folder / "versions").names()
        for number in tqdm(range(options.rounds), "rounds", disable=None, leave=False):
            found.without.append(period(options.seconds, interval_s))
            ring = [names[(number * options.swaps + i + 1) % VERSIONS] for i in range(options.swaps)]
            swapping = _Swapping(urls, ring, options.seconds / options.swaps)
            swapping.start()
            found.during.append(period(options.seconds, interval_s))
            found.swaps += swapping.result()
            tqdm.write(f"round {number + 1}: p99 with ÷ without {_ratios(found)[-1]:.2f}")
    for url in urls:
        found.holds += int(_metric(url, 'rm_cut_over_hold_seconds_count{outcome="go"}'))
        found.held_s += _metric(url, 'rm_cut_over_hold_seconds_sum{outcome="go"}')
    return found


class _Swapping(threading.Thread):
    """Activates one version every `every_s`, through the servers in turn."""

    def __init__(self, urls: Sequence[str], versions: Sequence[str], every_s: float) -> None:
        super().__init__()
        self._calls = [(urls[place % len(urls)], version) for place, version in enumerate(versions)]
        self._every_s = every_s
        self._swaps: list[Swap] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            with httpx.Client(timeout=120.0) as http:
                for url, version in self._calls:
                    time.sleep(self._every_s / 4)
                    begun = time.monotonic()
                    http.post(f"{url}/versions/{version}/activate").raise_for_status()
                    self._swaps.append(Swap(begun, time.monotonic()))
                    time.sleep(max(0.0, self._every_s * 3 / 4 - (self._swaps[-1].ended - begun)))
        except httpx.HTTPError as error:
            self._error = error

    def result(self) -> list[Swap]:
        self.join()
        if self._error is not None:
            raise self._error
        return self._swaps


def report(found: Found) -> str:
    without, during = (
        [sent for period in periods for sent in period] for periods in (found.without, found.during)
    )
    overlapping = [sent for sent in during if any(s.share_overlapped_by(sent) for s in found.swaps)]
    rows: list[tuple[str, ...]] = [("clients", "requests", "p50 ms", "p99 ms", "longest ms")]
    for name, sent in (
        ("without swaps", without),
        ("with swaps", during),
        ("of these, during a swap", overlapping),
    ):
        took = [1000 * one.took_s for one in sent]
        figures = (quantile(took, 0.5), quantile(took, 0.99), max(took, default=None))
        rows.append((name, str(len(took)), *("–" if f is None else f"{f:.1f}" for f in figures)))
    longest = max(during, key=lambda sent: sent.took_s)
    share = max(swap.share_overlapped_by(longest) for swap in found.swaps)
    took_s = [swap.ended - swap.begun for swap in found.swaps]
    ratios = _ratios(found)
    lines = [
        aligned(rows, left=(0,)),
        "",
        f"p99 with swaps ÷ without: {_p99(during) / _p99(without):.2f} over all requests (aim: at most {AIM}); "
        f"by round {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{len(took_s)} swaps of {min(took_s):.2f} to {max(took_s):.2f} s; the longest request waited "
        f"{1000 * longest.took_s:.0f} ms, during {share:.0%} of one swap",
    ]
    if found.holds:
        lines.append(
            f"each server held new requests for {1000 * found.held_s / found.holds:.1f} ms at a cut-over"
        )
    return "\n".join(lines)


def _ratios(found: Found) -> list[float]:
    """For each round, p99 with swaps ÷ p99 without."""
    return [_p99(during) / _p99(without) for without, during in zip(found.without, found.during, strict=True)]


def _p99(sent: Sequence[Sent]) -> float:
    p99 = quantile([one.took_s for one in sent], 0.99)
    if p99 is None:
        raise RuntimeError("a period without an answered request")
    return p99


def _metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5.0) as answer:  # noqa: S310 (ours)
        lines = answer.read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


if __name__ == "__main__":
    main()
