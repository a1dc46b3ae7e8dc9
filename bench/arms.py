"""The arms of a comparison: a context manager starts an arm and ends it; inside, it scores and is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import orjson

from bench import load as load_generator
from bench.load import Job
from bench.models import Checkpoint, Kind
from bench.probe import Probe
from bench.processes import Child, Server, Worker
from bench.workload import Load, Request
from metarm.runtime.processes import free_port

PROBED = "128x1"  # the load during which probes run
Batches = Literal["best", "usual"]  # peers' batch sizes: the fastest found on CPU, or the default
Spoken = Callable[[Request], Any]  # request → JSON body
Understood = Callable[[Any], list[float]]  # JSON answer → scores in the order of the responses


@dataclass(frozen=True, slots=True)
class Measurement:
    """One arm on one load in one round. Latencies and probes are seconds of single requests; `cpu_s` and `rss`
    are sums over the server's processes."""

    texts: int
    tokens: int
    wall_s: float
    cpu_s: float
    rss: int
    latencies_s: list[float] = field(default_factory=list)
    probes_s: list[float] = field(default_factory=list)
    client_cpu_s: float = 0.0

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.wall_s

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.wall_s


class Arm(Protocol):
    """`name` as tables show it; `loads` to measure it on; `tolerance` of its scores against the reference."""

    name: str
    loads: frozenset[str]
    tolerance: float

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def scores(self, requests: Sequence[Request], connections: int) -> list[list[float]]: ...

    def measure(self, load: Load, requests: Sequence[Request]) -> Measurement: ...


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """How to start a server, and its requests and answers. `helpers` start first and are measured too."""

    command: Callable[[int], list[str]]  # port → command line
    folder: Path
    settings: Callable[[int], dict[str, str]]  # port → environment
    ready_path: str
    score_path: str
    speak: Spoken
    understand: Understood
    probe_path: str | None = None
    working_folder: Path | None = None  # default: `folder`
    helpers: tuple[Child, ...] = ()


class ServerArm:
    """A scoring server, measured by a closed loop of clients."""

    def __init__(
        self, name: str, loads: frozenset[str], tolerance: float, plan: Callable[[], ServerPlan]
    ) -> None:
        """`plan` prepares what the server needs; it is called when the arm starts."""
        self.name = name
        self.loads = loads
        self.tolerance = tolerance
        self._make_plan = plan
        self._blocks = ExitStack()

    def __enter__(self) -> Self:
        self._plan = plan = self._make_plan()
        with ExitStack() as blocks:
            helpers = [blocks.enter_context(helper) for helper in plan.helpers]
            port = free_port()
            self._server = Server(
                plan.command(port),
                plan.folder,
                plan.settings(port),
                port,
                plan.ready_path,
                working_folder=plan.working_folder,
            )
            self._processes: list[Child] = [*helpers, blocks.enter_context(self._server)]
            self._blocks = blocks.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._blocks.close()

    def scores(self, requests: Sequence[Request], connections: int) -> list[list[float]]:
        outcome = load_generator.run(self._job(requests, connections))
        return [self._plan.understand(orjson.loads(answer)) for answer in outcome.answers]

    def measure(self, load: Load, requests: Sequence[Request]) -> Measurement:
        job = self._job(requests, load.connections)
        cpu_before = sum(process.cpu_s() for process in self._processes)
        outcome, probes_s = self._run(job, probe=load.name == PROBED)
        cpu_s = sum(process.cpu_s() for process in self._processes) - cpu_before
        for request, answer in zip(requests, outcome.answers, strict=True):
            if len(self._plan.understand(orjson.loads(answer))) != len(request.responses):
                raise RuntimeError(f"{self.name}: an answer lacks scores: {answer[:300]}")
        return Measurement(
            texts=load.texts,
            tokens=sum(sum(request.tokens) for request in requests),
            wall_s=outcome.wall_s,
            cpu_s=cpu_s,
            rss=sum(process.rss() for process in self._processes),
            latencies_s=outcome.latencies_s,
            probes_s=probes_s,
            client_cpu_s=outcome.client_cpu_s,
        )

    def _run(self, job: Job, *, probe: bool) -> tuple[load_generator.Outcome, list[float]]:
        """The job's outcome, and the seconds of each probe during it."""
        if not (probe and self._plan.probe_path):
            return load_generator.run(job), []
        with Probe(self._server.url + self._plan.probe_path) as prober:
            outcome = load_generator.run(job)
            return outcome, prober.between(outcome.started, outcome.started + outcome.wall_s)

    def _job(self, requests: Sequence[Request], connections: int) -> Job:
        bodies = [orjson.dumps(self._plan.speak(request)).decode() for request in requests]
        return Job(self._server.url + self._plan.score_path, connections, bodies)


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    command: list[str]
    folder: Path
    settings: dict[str, str]


class OfflineArm:
    """A library in a worker process: no server, no client, all texts at once."""

    def __init__(
        self, name: str, loads: frozenset[str], tolerance: float, plan: Callable[[], WorkerPlan]
    ) -> None:
        self.name = name
        self.loads = loads
        self.tolerance = tolerance
        self._make_plan = plan

    def __enter__(self) -> Self:
        plan = self._make_plan()
        self._worker = Worker(plan.command, plan.folder, plan.settings)
        self._worker.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._worker.__exit__(*exc_info)

    def scores(self, requests: Sequence[Request], connections: int) -> list[list[float]]:  # noqa: ARG002
        remaining = iter(self._ask(requests)["scores"])
        return [[next(remaining) for _ in request.responses] for request in requests]

    def measure(self, load: Load, requests: Sequence[Request]) -> Measurement:
        answer = self._ask(requests)
        return Measurement(
            texts=load.texts,
            tokens=sum(sum(request.tokens) for request in requests),
            wall_s=answer["wall_s"],
            cpu_s=answer["cpu_s"],
            rss=self._worker.rss(),
        )

    def _ask(self, requests: Sequence[Request]) -> dict[str, Any]:
        return self._worker.ask({"pairs": [pair for request in requests for pair in request.pairs]})


@dataclass(frozen=True, slots=True)
class Setting:
    """What an arm makes its plan from."""

    checkpoint: Checkpoint
    folder: Path  # of this run and model, with one subfolder per arm
    batches: Batches = "best"
    before: Path | None = None  # another checkout of this project, whose service is an arm too

    def batch_size(self, best: Mapping[Kind, int], usual: int) -> int:
        """The batch size to run a peer with."""
        return best[self.checkpoint.kind] if self.batches == "best" else usual


def wait_a_moment() -> None:
    """Let spinning threads of the previous arm go to sleep before the next arm is timed."""
    time.sleep(0.3)
