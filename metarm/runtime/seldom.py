"""Lets one event of each kind through in a while, so that a log line is not repeated many times a second."""

from __future__ import annotations

import time
from collections.abc import Hashable


class Seldom:
    """At most one event of each kind every `every_s` seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._kinds: dict[Hashable, tuple[float, int]] = {}  # when let through last (monotonic), left out since

    def left_out(self, kind: Hashable) -> int | None:
        """Events left out since the last that was let through; None where this one is left out."""
        now = time.monotonic()
        last, count = self._kinds.get(kind, (float("-inf"), 0))
        if now - last < self._every_s:
            self._kinds[kind] = last, count + 1
            return None
        self._kinds[kind] = now, 0
        return count
