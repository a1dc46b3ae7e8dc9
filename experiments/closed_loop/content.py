"""Names of kept results: they change with everything that a result was made from, the code included."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import orjson

# the code that decides the figures of a run; tables and pictures do not
PACKAGES = ("metarm", "trainer", "simulation")
OWN = (
    "closed_loop/plan.py",
    "closed_loop/play.py",
    "closed_loop/records.py",
    "closed_loop/reward_models.py",
    "closed_loop/first_model.py",
    "closed_loop/in_process.py",
    "closed_loop/served.py",
)


def digest(described: object, *contents: bytes) -> str:
    """16 hexadecimal digits of `described` (what JSON can hold), `contents`, and the code."""
    parts = [orjson.dumps(described, option=orjson.OPT_SORT_KEYS), *contents, _code()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def sources() -> list[Path]:
    """The files whose content every digest covers."""
    files = [file for package in PACKAGES for file in sorted(_folder(package).rglob("*.py"))]
    return files + [Path(__file__).parents[1] / name for name in OWN]


@cache
def _code() -> bytes:
    return b"".join(file.read_bytes() for file in sources())


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 (our own packages)
    return Path(spec.origin).parent
