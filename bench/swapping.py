"""`bench/swap`: how long steady clients wait for /score while versions are swapped, and while none is.

The real service on the benchmarks' encoder, its score cache off. Periods with and without swaps take turns in
one run. A swap is `POST /versions/{v}/activate` of a version that is not in memory: verify, load, warm, then
the pointer; with --servers 2 both cut over together and the clients ask them in turn. Each server has cores of
its own then, as on a machine of its own: the system shares cores between servers whatever a thread's
priority, so that one that loads would take them from another that scores (--share-cores shows how much).
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

from bench.machine import machine
from bench.models import checkpoint, publish_copies
from bench.places import WORK
from bench.processes import Child, Server, Worker
from bench.results import quantile
from bench.steady import Period, Sent
from bench.table import aligned
from bench.workload import GeneratedPairs, Load
from metarm.model.encoding import load_encoder
from metarm.runtime import process_environment
from metarm.runtime.embedded_redis import EmbeddedRedis
from metarm.runtime.processes import free_port
from metarm.store.versions import VersionStore

AIM = 1.15  # p99 with swaps ÷ without
VERSIONS = 4  # swapped in a ring, of which two stay in memory: each has to be loaded
BODIES = 400


@dataclass(frozen=True, slots=True)
class Swap:
    """From the call to its answer, in time.monotonic()."""

    begun: float
    ended: float

    def share_overlapped_by(self, sent: Sent) -> float:
        """The share of this swap during which a request waited."""
        common = min(self.ended, sent.at + sent.took_s) - max(self.begun, sent.at)
        return max(0.0, common) / (self.ended - self.begun)


@dataclass(slots=True)
class Found:
    """The requests of each period without swaps, and of the one with swaps after it; the swaps; the holds."""

    without: list[list[Sent]] = field(default_factory=list)
    during: list[list[Sent]] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    holds: int = 0
    held_s: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/swap", description=__doc__)
    parser.add_argument("--servers", type=int, default=1, help="on one store and one Redis")
    parser.add_argument("--share-cores", action="store_true", help="all servers on all cores")
    parser.add_argument("--rounds", type=int, default=4, help="each: a period without swaps and one with")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a period")
    parser.add_argument("--swaps", type=int, default=3, help="in a period with swaps")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--texts", type=int, default=4, help="of a request")
    parser.add_argument(
        "--share", type=float, default=0.5, help="of the requests a second that they could send"
    )
    parser.add_argument("--out", type=Path, help="JSON file of every request and swap")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= options.servers <= len(cores) and not options.share_cores:
        parser.error(f"{len(cores)} cores are too few for {options.servers} servers, unless they --share-cores")
    each = [cores if options.share_cores else cores[n :: options.servers] for n in range(options.servers)]
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder, _servers(Path(folder), each) as urls:
        found = measure(urls, Path(folder), options)
    print(report(found))
    if options.out:
        content = {
            "settings": {**vars(options), "out": str(options.out)},
            "machine": machine(),
            **asdict(found),
        }
        options.out.write_bytes(orjson.dumps(content))


@contextlib.contextmanager
def _servers(folder: Path, cores: Sequence[Sequence[int]]) -> Iterator[list[str]]:
    """A service for each set of cores, on one store with VERSIONS versions of the same weights; their Redis."""
    publish_copies(checkpoint("encoder"), folder, VERSIONS)
    redis = EmbeddedRedis(folder / "redis")
    environment = {
        **process_environment.REQUIRED,
        "METARM_DATA_DIR": str(folder),
        "METARM_SCORE_CACHE_ENTRIES": "0",
        "METARM_KEEP_LOADED": "2",
        "METARM_LOG_LEVEL": "WARNING",
        "REDIS_URL": redis.url,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(Child(redis.command(), folder / "redis", {}))
        urls = []
        for number, of_server in enumerate(cores):
            port = free_port()
            settings = {**environment, "METARM_PORT": str(port)}
            command = [sys.executable, "-m", "service"]
            server = Server(command, folder / f"service-{number}", settings, port, "/ready")
            with _on(of_server):
                urls.append(stack.enter_context(server).url)
        yield urls


@contextlib.contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """Processes that are started inside the block run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(urls: Sequence[str], folder: Path, options: argparse.Namespace) -> Found:
    made = checkpoint("encoder")
    source = GeneratedPairs(load_encoder(made.path, made.max_tokens))
    requests = source.requests(Load("swap", "encoder", 1, options.texts, BODIES), "swap")
    bodies = [
        orjson.dumps({"groups": [{"prompt": r.prompt, "responses": list(r.responses)}], "log": False}).decode()
        for r in requests
    ]
    found = Found()
    with Worker([sys.executable, "-m", "bench.steady"], folder / "clients", {}) as clients:

        def period(seconds: float, interval_s: float) -> list[Sent]:
            asked = Period(list(urls), bodies, options.clients, seconds, interval_s)
            return [Sent(**sent) for sent in clients.ask(asdict(asked))["sent"]]

        period(2.0, 0.0)
        at_most = len(period(4.0, 0.0)) / 4.0
        interval_s = options.clients / (options.share * at_most)
        print(
            f"{at_most:.1f} requests of {options.texts} texts a second at most; sent: {options.share:.0%} of it"
        )
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
    """Activates the versions one after another, `every_s`, asking the servers in turn."""

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
        ("of these, beside one", overlapping),
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
        f"{1000 * longest.took_s:.0f} ms, beside {share:.0%} of one swap",
    ]
    if found.holds:
        lines.append(
            f"new requests were held for {1000 * found.held_s / found.holds:.1f} ms a cut-over and server"
        )
    return "\n".join(lines)


def _ratios(found: Found) -> list[float]:
    """p99 with swaps by p99 without, of each round."""
    return [_p99(during) / _p99(without) for without, during in zip(found.without, found.during, strict=True)]


def _p99(sent: Sequence[Sent]) -> float:
    p99 = quantile([one.took_s for one in sent], 0.99)
    if p99 is None:
        raise RuntimeError("no request was answered in a whole period")
    return p99


def _metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5.0) as answer:  # noqa: S310 (ours)
        lines = answer.read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


if __name__ == "__main__":
    main()
