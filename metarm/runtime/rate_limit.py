"""A rate limit by kind of event, so that the same log line is not written many times a second."""

from __future__ import annotations

import time
from collections.abc import Hashable

MOST_KINDS = 1000


class RateLimit:
    """Admits at most one event of each kind in `every_s` seconds. Of more than MOST_KINDS kinds, it forgets the
    ones admitted longest ago."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        # last admitted (monotonic s), suppressed since; the kind admitted last is last
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def admit(self, kind: Hashable) -> int | None:
        """None if this event is suppressed; otherwise the number suppressed since the last one admitted."""
        now = time.monotonic()
        last, count = self._kinds.get(kind, (float("-inf"), 0))
        if now - last < self._every_s:
            self._kinds[kind] = last, count + 1
            return None
        self._kinds.pop(kind, None)
        self._kinds[kind] = now, 0
        if len(self._kinds) > MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        return count
