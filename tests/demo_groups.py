"""Realistic groups for tests: the prompts and both responses of the packaged demo preferences."""

from __future__ import annotations

import gzip
import json
from functools import cache
from typing import Any

from trainer.preferences import PACKAGED


@cache
def _rows() -> list[dict[str, str]]:
    with gzip.open(PACKAGED, "rt") as file:
        return [json.loads(line) for line in file]


def demo_groups(count: int) -> list[dict[str, Any]]:
    """`count` groups of two responses each."""
    return [{"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"]]} for row in _rows()[:count]]
