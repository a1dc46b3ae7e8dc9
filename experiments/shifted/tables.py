"""Estimates → the tables of each meta-set, and the rows of the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from experiments.shifted.comparison import Cell, Estimate
from experiments.shifted.data import HELD_OUT, TESTS
from experiments.shifted.evaluation import POOLED
from experiments.shifted.experiment import Row
from experiments.shifted.measures import Measure
from experiments.shifted.variants import AVERAGE, CONTROLS, FIRST, LONGER, TRAINED, VANILLA
from metarm.runtime.tables import aligned

Estimates = Mapping[Row, Mapping[Cell, Estimate]]


class Column(NamedTuple):
    title: str
    of: str
    measure: Measure
    scale: float = 100.0
    digits: int = 1


ACCURACY = (
    *(Column(name, name, "accuracy") for name in (HELD_OUT, *TESTS)),
    Column(POOLED, POOLED, "accuracy"),
    Column(f"{POOLED}, shorter won", POOLED, "accuracy_shorter"),
)
SPREAD = (
    Column("id spread", "id", "spread", 1.0, 2),
    *(Column(f"{name} ÷ id", name, "spread_to_reference") for name in ("strong", "vstrong", POOLED)),
    Column("vstrong groups ÷ id", "vstrong_groups", "spread_to_reference"),
    Column(f"{POOLED} under .2", POOLED, "crowded"),
    Column("ECE id", "id", "calibration_error"),
    Column(f"ECE {POOLED}", POOLED, "calibration_error"),
)
LEGEND = (
    "In points (per cent); id spread in units of the reward. First row: vanilla's figures, means over seeds.\n"
    "Below: what each row adds to them, seed by seed, and in brackets the 95% interval of a bootstrap over\n"
    "prompts and seeds. spread: standard deviation of Δr, either response first; under .2: share of pairs\n"
    "with |Δr| below .2 of the id spread; ECE: expected calibration error of σ(|Δr|), 10 bins.\n"
    + "\n".join(f"{name}: {what}" for name, what in CONTROLS.items())
)


def tables(estimates: Estimates, meta: str) -> str:
    """Accuracy, then spread and calibration, of one meta-set."""
    common = [(None, VANILLA), (None, FIRST)]
    own = [(meta, name) for name in (*TRAINED, AVERAGE) if (meta, name) in estimates]
    accuracy = _table(estimates, [*common, (None, LONGER), *own], ACCURACY, f"meta-set {meta}: accuracy")
    return (
        accuracy
        + "\n\n"
        + _table(estimates, [*common, *own], SPREAD, f"meta-set {meta}: spread and calibration")
    )


def record(estimates: Estimates) -> list[dict[str, Any]]:
    """Each row with the figures of each set: value, change against vanilla and its interval, as fractions."""
    return [
        {
            "meta": meta,
            "variant": name,
            "rate": TRAINED[name].rate if name in TRAINED else None,
            "figures": _by_set(cells),
        }
        for (meta, name), cells in estimates.items()
    ]


def _by_set(cells: Mapping[Cell, Estimate]) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (name, measure), estimate in cells.items():
        found.setdefault(name, {})[measure] = asdict(estimate)
    return found


def _table(estimates: Estimates, rows: list[Row], columns: tuple[Column, ...], heading: str) -> str:
    cells = [("variant", *(column.title for column in columns))]
    for row in rows:
        found = estimates[row]
        figures = [
            _cell(found[column.of, column.measure], column, row == (None, VANILLA)) for column in columns
        ]
        cells.append((_name(row[1]), *figures))
    return heading + "\n" + aligned(cells, left=(0,))


def _name(name: str) -> str:
    return f"{name}, η {TRAINED[name].rate:g}" if name in TRAINED else name


def _cell(estimate: Estimate, column: Column, absolute: bool) -> str:
    scale, digits = column.scale, column.digits
    if absolute:
        return f"{scale * estimate.value:.{digits}f}"
    change, low, high = (scale * figure for figure in (estimate.change, estimate.low, estimate.high))
    return f"{change:+.{digits}f} [{low:+.{digits}f} {high:+.{digits}f}]"
