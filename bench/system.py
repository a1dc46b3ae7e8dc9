"""The whole system under `metarm up`, on the packaged encoder: start, memory, and scoring during a retrain."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from tqdm import tqdm

from bench import ours, training_step
from bench.models import checkpoint, publish
from bench.processes import Server
from bench.results import Aim, quantile
from bench.workload import GeneratedPairs, Load, encoder_pairs
from metarm.runtime.processes import free_port

IDLE_S = 3.0
TEXTS = 4  # in a small request
GROUPS = 160  # logged before a retrain, which needs fewer
MIB = 2**20


class System(Server):
    """Redis, service and trainer, on a store with a first version."""

    def __init__(self, folder: Path, **settings: str) -> None:
        port = free_port()
        command = [sys.executable, "-m", "metarm", "up", "--port", str(port), "--data-dir", str(folder)]
        super().__init__(command, folder / "up", settings, port, ours.READY_PATH)

    def service(self) -> psutil.Process:
        """The process of the service."""
        return next(p for p in self._family() if p.cmdline()[1:3] == ["-m", "service"])


def system_aims(folder: Path, quick: bool) -> list[Aim]:
    """The aims besides those of loads: training step, scoring during a retrain, start and memory."""
    packed, padded = training_step.measure(2 if quick else 7)
    step = statistics.median(packed) / statistics.median(padded)
    prepared(folder)
    turns = tqdm(range(2 if quick else 5), "starts", disable=None, leave=False)
    starts = [startup(folder) for _ in turns]
    resident, weights = starts[-1][1:]
    alone, during = retrain_latencies(folder, 7.0 if quick else 30.0, 2 if quick else 4)
    tails = [quantile(found, 0.99) or 0.0 for found in (during, alone)]
    print(f"training step: packed {statistics.median(packed):.2f} s, padded {statistics.median(padded):.2f} s")
    for name, found, tail in (("during a retrain", during, tails[0]), ("alone", alone, tails[1])):
        print(f"{TEXTS} texts, {name}: p50 {1000 * statistics.median(found):.0f} ms, p99 {1000 * tail:.0f} ms")
    print(f"service, idle: {resident:.0f} MiB; weights {weights:.0f} MiB")
    return [
        Aim("training step, packed ÷ padded", step, 0.33, at_most=True),
        Aim("p99 of a 4-text /score, during a retrain ÷ alone", tails[0] / tails[1], 1.3, at_most=True),
        Aim("start to ready", statistics.median(s[0] for s in starts), 5.0, at_most=True, unit="s"),
        Aim("idle memory ÷ (2.5 × weights + 400 MB)", resident / (2.5 * weights + 400), 1.0, at_most=True),
    ]


def prepared(folder: Path) -> Path:
    """Publish one version in a data folder, and start the system once, which measures its forward plan."""
    publish(checkpoint("encoder"), folder)
    with System(folder):
        pass
    return folder


def startup(folder: Path) -> tuple[float, float, float]:
    """Seconds from the start of the command to /ready, MiB of the idle service, MiB of the weights."""
    started = time.monotonic()
    with System(folder) as system:
        ready_s = time.monotonic() - started
        time.sleep(IDLE_S)
        resident = system.service().memory_info().rss / MIB
    return ready_s, resident, checkpoint("encoder").path.joinpath("model.safetensors").stat().st_size / MIB


def retrain_latencies(folder: Path, seconds: float, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of small /score requests, one after another, in turn without a retrain and during one."""
    source = encoder_pairs()
    alone: list[float] = []
    during: list[float] = []
    with System(folder) as system, httpx.Client(base_url=system.url, timeout=60.0) as http:
        _log_groups(http, source)
        for number in range(rounds):
            bodies = _bodies(source, f"retrain {number}")
            alone += _requests(http, bodies, seconds)
            job = _start_job(http)
            during += _requests(http, bodies, seconds)
            _end_job(http, job)
    return alone, during


def _log_groups(http: httpx.Client, source: GeneratedPairs) -> None:
    short = Load("groups", "encoder", 1, 2, GROUPS)
    for request in source.requests(short, "groups"):
        http.post("/score", json=ours.body(request)).raise_for_status()


def _start_job(http: httpx.Client) -> str:
    answer = http.post("/retrain", json={"steps": 1000})
    answer.raise_for_status()
    job: str = answer.json()["job"]
    _wait(lambda: _running(http, job) and http.get(f"/retrain/{job}").json()["progress"]["step"] >= 1)
    return job


def _end_job(http: httpx.Client, job: str) -> None:
    """Cancel the job. Raises RuntimeError where it ended before: the requests then ran without a retrain."""
    if not _running(http, job):
        raise RuntimeError("the retrain ended before the requests did")
    http.delete(f"/retrain/{job}").raise_for_status()
    _wait(lambda: not _running(http, job))


def _running(http: httpx.Client, job: str) -> bool:
    return bool(http.get(f"/retrain/{job}").json()["status"] == "running")


def _requests(http: httpx.Client, bodies: Iterator[dict[str, Any]], seconds: float) -> list[float]:
    """Seconds of each request, one after another, for `seconds`."""
    found = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        started = time.perf_counter()
        http.post("/score", json=next(bodies)).raise_for_status()
        found.append(time.perf_counter() - started)
    return found


def _bodies(source: GeneratedPairs, draw: str) -> Iterator[dict[str, Any]]:
    """An endless sequence of different requests of TEXTS texts, which are not logged."""
    for number in itertools.count():
        (request,) = source.requests(Load("small", "encoder", 1, TEXTS, 1), f"{draw} {number}")
        yield ours.body(request, log=False)


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120.0
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError("the job did not change its state within two minutes")
        time.sleep(0.2)
