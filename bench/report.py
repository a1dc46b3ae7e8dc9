"""The results of `bench/score` as tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from bench.arms import Measurement
from bench.machine import machine
from bench.results import Aim, LoadResult, Results, quantile
from bench.roster import OURS
from metarm.runtime.tables import aligned

COLUMNS = (
    *("arm", "texts/s [min-max]", "tokens/s", "ours ÷ arm", "of limit"),
    *("CPU ms/text", "RSS MB", "p50 ms", "p99 ms"),
)


def tables(results: Results) -> str:
    """One table per load."""
    return "\n\n".join(_table(result) for result in results.loads.values() if result.cells)


def aims_table(aims: Sequence[Aim]) -> str:
    rows = [("aim", "ours", "wanted", "", "at")]
    for aim in aims:
        verdict = {True: "met", False: "missed", None: "not measured"}[aim.met]
        bound = f"{'≤' if aim.at_most else '≥'} {aim.bound:g} {aim.unit}".strip()
        rows.append((aim.what, _number(aim.figure, 2), bound, verdict, aim.where))
    return aligned(rows, left=(0, 3, 4))


def write(file: Path, results: Results, aims: Sequence[Aim], settings: dict[str, Any]) -> None:
    content = {
        "format": 1,
        "settings": settings,
        "machine": machine(),
        "loads": {name: _load_record(result) for name, result in results.loads.items()},
        "differences": results.differences,
        "refused": [{"model": m, "arm": a, "why": w} for m, a, w in results.refused],
        "aims": [{**asdict(aim), "met": aim.met} for aim in aims],
    }
    file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))


def _table(result: LoadResult) -> str:
    load = result.load
    tokens = next(iter(next(iter(result.cells.values())).values())).tokens
    rates = result.rates.values()
    limit = ""
    if rates:
        best = statistics.median(rate.best for rate in rates) / 1e9
        own = statistics.median(rate.model for rate in rates) / 1e9
        allowed = statistics.median(result.limits.values())
        limit = f"; limit {allowed:,.0f} tokens/s ({best:.0f} GFLOP/s, {own:.0f} at the model's shapes)"
    heading = (
        f"{load.name}: {load.connections} connections × {load.responses} "
        f"({load.requests} requests, {tokens:,} tokens a round){limit}"
    )
    arms = sorted(result.cells, key=lambda arm: (arm != OURS, -statistics.median(_texts_per_s(result, arm))))
    return heading + "\n" + aligned([COLUMNS, *(_row(result, arm) for arm in arms)], left=(0,))


def _row(result: LoadResult, arm: str) -> tuple[str, ...]:
    speeds = _texts_per_s(result, arm)
    summary = _summary(result, arm)
    spread = f"{statistics.median(speeds):.1f} [{min(speeds):.1f}-{max(speeds):.1f}]"
    return (
        arm,
        spread,
        f"{summary['tokens_per_s']:,.0f}",
        _number(summary["ours_ratio"], 2),
        _number(summary["share_of_limit"], 2),
        _number(1000 * summary["cpu_s_per_text"], 1),
        f"{summary['rss'] / 2**20:,.0f}",
        _number(summary["p50_ms"], 0),
        _number(summary["p99_ms"], 0),
    )


def _summary(result: LoadResult, arm: str) -> dict[str, Any]:
    latencies = [1000 * s for m in result.cells[arm].values() for s in m.latencies_s]

    def median(figures: list[float]) -> float:
        return statistics.median(figures)

    return {
        "texts_per_s": median(_texts_per_s(result, arm)),
        "tokens_per_s": median(result.over_rounds(arm, lambda m: m.tokens_per_s)),
        "ours_ratio": result.ratio(OURS, arm),
        "share_of_limit": result.share_of_limit(arm),
        "cpu_s_per_text": median(result.over_rounds(arm, lambda m: m.cpu_s / m.texts)),
        "rss": max(result.over_rounds(arm, lambda m: m.rss)),
        "p50_ms": quantile(latencies, 0.5),
        "p99_ms": quantile(latencies, 0.99),
    }


def _texts_per_s(result: LoadResult, arm: str) -> list[float]:
    return result.over_rounds(arm, lambda m: m.texts_per_s)


def _load_record(result: LoadResult) -> dict[str, Any]:
    return {
        "load": asdict(result.load),
        "limit_tokens_per_s": {str(n): limit for n, limit in result.limits.items()},
        "rates": {str(n): asdict(rate) for n, rate in result.rates.items()},
        "arms": {
            arm: {"summary": _summary(result, arm), "rounds": {str(n): _round(m) for n, m in cells.items()}}
            for arm, cells in result.cells.items()
        },
    }


def _round(measurement: Measurement) -> dict[str, Any]:
    return {
        **asdict(measurement),
        "texts_per_s": measurement.texts_per_s,
        "tokens_per_s": measurement.tokens_per_s,
    }


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
