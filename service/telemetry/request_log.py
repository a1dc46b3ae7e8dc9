"""What the log says of requests: nothing at info level, however many; refusals and failures at warning."""

from __future__ import annotations

import logging
import time
from collections import Counter

log = logging.getLogger(__name__)

EVERY_S = 1.0  # at most one line in this time of each route and status
PROBED = frozenset({"/ready", "/health"})  # whose 503 is an answer that somebody asks for again and again


class RequestLog:
    """Lives on the event loop."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, int], float] = {}
        self._left_out: Counter[tuple[str, int]] = Counter()

    def answered(self, method: str, route: str, status: int, seconds: float, error: str | None) -> None:
        """`error` is the code of one (metarm/errors.py)."""
        if status < 400 or route in PROBED:
            if log.isEnabledFor(logging.DEBUG):
                self._write(logging.DEBUG, method, route, status, seconds, error)
            return
        kind, now = (route, status), time.monotonic()
        if now - self._said.get(kind, -EVERY_S) < EVERY_S:
            self._left_out[kind] += 1
            return
        self._said[kind] = now
        self._write(logging.WARNING, method, route, status, seconds, error, self._left_out.pop(kind, 0))

    def _write(
        self,
        level: int,
        method: str,
        route: str,
        status: int,
        seconds: float,
        error: str | None,
        left_out: int = 0,
    ) -> None:
        more = f", and {left_out} like it since the last line" if left_out else ""
        fields = {"route": route, "status": status, "duration_s": round(seconds, 6), "error": error}
        known = {name: value for name, value in fields.items() if value is not None}
        log.log(level, "%s answered with %d%s", method, status, more, extra=known)
