"""The inside of a worker process (bench/processes.py, Worker): JSON lines in, JSON lines out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import orjson


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Announce that the worker is ready, then answer every line of stdin until it ends."""
    say({"ready": True})
    for line in sys.stdin.buffer:
        say(answer(orjson.loads(line)))


def say(content: Mapping[str, Any]) -> None:
    """Write one line to stdout at once."""
    sys.stdout.buffer.write(orjson.dumps(content) + b"\n")
    sys.stdout.buffer.flush()
