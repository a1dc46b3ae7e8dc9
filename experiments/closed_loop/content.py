"""Names for what is kept: they change with all that it was made from."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import orjson

# whose source decides what comes out of a run; how it is shown does not
PACKAGES = ("metarm", "trainer", "simulation", "simulation.families")
OWN = ("plan", "play", "records", "reward_models", "first_model", "in_process", "served")


def digest(described: object, *contents: bytes) -> str:
    """16 hexadecimal digits of `described` (what JSON can hold), `contents`, and the code."""
    parts = [orjson.dumps(described, option=orjson.OPT_SORT_KEYS), *contents, _code()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


@cache
def _code() -> bytes:
    files = [file for package in PACKAGES for file in sorted(_folder(package).glob("*.py"))]
    files += [Path(__file__).with_name(f"{name}.py") for name in OWN]
    return b"".join(file.read_bytes() for file in files)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 (our own packages)
    return Path(spec.origin).parent
