"""Files of the version store: JSON objects, and writes that survive a crash of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from metarm.errors import InvalidVersionError

MOST_BYTES = 32 * 2**20  # of a JSON file of the store: thousands of times a usual manifest


def read_json(path: Path) -> dict[str, Any]:
    """Raises InvalidVersionError if the file is not a JSON object or has over MOST_BYTES, and
    FileNotFoundError."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InvalidVersionError(f"{path.name} has over {MOST_BYTES} bytes, the most that is read")
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidVersionError(f"{path.name} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidVersionError(f"{path.name} is not a JSON object")
    return content


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """Indented, for people. Equal records give equal bytes."""
    return orjson.dumps(record, option=orjson.OPT_INDENT_2)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file by one rename: readers see the old content or the new."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    sync(aside)
    aside.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
