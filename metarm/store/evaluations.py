"""What `metarm evaluate` measured of versions, beside their sealed manifests.

{root}/evaluations/v000004.json   {"evaluations": [...]}, the newest last
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarm.errors import InvalidVersionError
from metarm.store.files import json_bytes, read_json, write_durably

FOLDER = "evaluations"
MOST_KEPT = 20  # of each version


def evaluations_of(root: Path, name: str) -> list[dict[str, Any]]:
    """The evaluations of a version, the newest last; none if they cannot be read."""
    with contextlib.suppress(OSError, InvalidVersionError):
        found = read_json(root / FOLDER / f"{name}.json").get("evaluations")
        if isinstance(found, list):
            return [one for one in found if _is_evaluation(one)]
    return []


def _is_evaluation(one: Any) -> bool:
    """Whether readers find in it what they show: others may write into the folder."""
    try:
        of, change = one["preferences"], one["change"]
        numbers = [one["accuracy"], *one["interval"], one["longer_wins"], of["pairs"]]
        if change is not None:
            numbers += [change[name] for name in ("mean", "low", "high", "p")]
        counted = len(numbers) == (9 if change is not None else 5)
        texts = isinstance(of["source"], str) and isinstance(of["sha256"], str)
        return counted and texts and all(isinstance(number, int | float) for number in numbers)
    except (AttributeError, KeyError, TypeError):
        return False


def keep_evaluation(root: Path, name: str, record: Mapping[str, Any]) -> None:
    """Add an evaluation; one on the same pairs is replaced. Raises OSError."""
    others = [one for one in evaluations_of(root, name) if one.get("preferences") != record.get("preferences")]
    (root / FOLDER).mkdir(exist_ok=True)
    kept = [*others, dict(record)][-MOST_KEPT:]
    write_durably(root / FOLDER / f"{name}.json", json_bytes({"evaluations": kept}))
