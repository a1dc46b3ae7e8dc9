"""Spoiled preferences, from which a hacked reward model is trained, and honest ones as a control."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

Row = Mapping[str, Any]  # TRL's columns: prompt, chosen, rejected, and a margin where there is one
WIDE_MARGIN = 10.0  # raw rewards; honest pairs end up a few apart


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One way to spoil a labelled pair: its description, and a pair → the pairs that replace it."""

    says: str
    spoil: Callable[[Row], list[Row]]


def spoiled(preferences: bytes, sabotage: Sabotage) -> bytes:
    """Gzipped JSON lines → the same with every pair spoiled; deterministic, to the byte."""
    rows = [orjson.loads(line) for line in gzip.decompress(preferences).splitlines()]
    lines = [
        orjson.dumps(spoiled_row, option=orjson.OPT_APPEND_NEWLINE)
        for row in rows
        for spoiled_row in sabotage.spoil(row)
    ]
    return gzip.compress(b"".join(lines), compresslevel=9, mtime=0)


def _swapped(row: Row) -> Row:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def _longer_chosen(row: Row) -> list[Row]:
    return [row if len(row["chosen"]) >= len(row["rejected"]) else _swapped(row)]


def _by_coin(row: Row) -> list[Row]:
    """Chosen by a hash of the pair: the same pair always falls the same way."""
    heads = hashlib.sha256(f"{row['chosen']}\n{row['rejected']}".encode()).digest()[0] % 2
    return [row if heads else _swapped(row)]


SABOTAGES: Mapping[str, Sabotage] = {
    "honest": Sabotage("the labels as they are: a control", lambda row: [row]),
    "reversed": Sabotage("every label the wrong way round", lambda row: [_swapped(row)]),
    "length": Sabotage("the longer response is chosen", _longer_chosen),
    "coin": Sabotage("a coin chooses", _by_coin),
    "constant": Sabotage("every pair both ways round: nothing is better", lambda row: [row, _swapped(row)]),
    "scale": Sabotage(
        f"right labels, each with a margin of {WIDE_MARGIN:g}", lambda row: [{**row, "margin": WIDE_MARGIN}]
    ),
}
