"""The results of a run of `bench/score`: every measurement, the figures computed from them, the aims. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.arms import Measurement
from bench.limit import Rate
from bench.roster import OURS
from bench.workload import Load


@dataclass(slots=True)
class LoadResult:
    """The measurements of one load by arm and round; each round's limit in tokens a second, and its rates."""

    load: Load
    cells: dict[str, dict[int, Measurement]] = field(default_factory=dict)
    limits: dict[int, float] = field(default_factory=dict)
    rates: dict[int, Rate] = field(default_factory=dict)

    def over_rounds(self, arm: str, figure: Callable[[Measurement], float]) -> list[float]:
        return [figure(m) for _, m in sorted(self.cells.get(arm, {}).items())]

    def ratio(self, arm: str, other: str) -> float | None:
        """The median, over the rounds that have both, of `arm`'s texts a second ÷ `other`'s."""
        mine, theirs = self.cells.get(arm, {}), self.cells.get(other, {})
        ratios = [mine[n].texts_per_s / theirs[n].texts_per_s for n in mine if n in theirs]
        return statistics.median(ratios) if ratios else None

    def share_of_limit(self, arm: str) -> float | None:
        """The median over rounds of tokens a second ÷ the limit measured in the same round."""
        cells = self.cells.get(arm, {})
        shares = [cells[n].tokens_per_s / self.limits[n] for n in cells if n in self.limits]
        return statistics.median(shares) if shares else None


@dataclass(slots=True)
class Results:
    """`differences`: by model and arm, the largest difference of a score from the reference. `refused`: (model
    or load, arm, reason) of every arm that was not timed, or no longer."""

    loads: dict[str, LoadResult] = field(default_factory=dict)
    differences: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure of this project and its bound. None: not measured in this run."""

    what: str
    figure: float | None
    bound: float
    at_most: bool = False
    where: str = ""  # the load that decides
    unit: str = ""

    @property
    def met(self) -> bool | None:
        if self.figure is None:
            return None
        return self.figure <= self.bound if self.at_most else self.figure >= self.bound


def aims(results: Results, mixed: Sequence[str], peers: Sequence[str]) -> list[Aim]:
    """The aims of scoring; bench/system.py has those of the whole system."""
    every = [*mixed, "grpo"]
    return [
        _worst("server ÷ offline forward", results, ["128x1"], "offline", 0.92),
        _worst("server ÷ infinity optimum, every mixed load", results, mixed, "infinity-optimum", 1.5),
        _worst("server ÷ infinity torch, every load", results, every, "infinity-torch", 3.0),
        _worst("server ÷ LitServe, every load", results, every, "litserve", 3.0),
        _worst("server ÷ serve_rm", results, ["128x1"], "serve_rm", 2.0),
        _worst("server ÷ serve_rm", results, ["8x64"], "serve_rm", 4.5),
        _worst("groups: server ÷ without prefix sharing", results, ["grpo"], "ours-no-prefix", 3.2),
        _best_peer("groups: server ÷ best peer", results, peers, 4.0),
        _share("offline forward, share of the limit", results, 0.85),
        _health("/health p99 under 128 connections", results, 20.0),
    ]


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that a share `q` of the values does not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def _worst(what: str, results: Results, loads: Sequence[str], other: str, bound: float) -> Aim:
    found = [(r.ratio(OURS, other), name) for name, r in results.loads.items() if name in loads]
    measured = [(ratio, name) for ratio, name in found if ratio is not None]
    ratio, where = min(measured, default=(None, "/".join(loads)))
    return Aim(what, ratio, bound, where=where)


def _best_peer(what: str, results: Results, peers: Sequence[str], bound: float) -> Aim:
    result = results.loads.get("grpo")
    found = [(result.ratio(OURS, peer), peer) for peer in peers] if result else []
    ratio, where = min([(r, peer) for r, peer in found if r is not None], default=(None, "grpo"))
    return Aim(what, ratio, bound, where=where)


def _share(what: str, results: Results, bound: float) -> Aim:
    result = results.loads.get("128x1")
    return Aim(what, result.share_of_limit("offline") if result else None, bound, where="128x1")


def _health(what: str, results: Results, bound: float) -> Aim:
    result = results.loads.get("128x1")
    probes = [p for m in result.cells.get(OURS, {}).values() for p in m.probes_s] if result else []
    p99 = quantile(probes, 0.99)
    figure = None if p99 is None else 1000 * p99
    return Aim(what, figure, bound, at_most=True, where="128x1", unit="ms")
