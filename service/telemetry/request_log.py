"""Log lines of requests: errors at warning level, with a rate limit; all others at debug."""

from __future__ import annotations

import logging

from metarm.runtime.rate_limit import RateLimit

log = logging.getLogger(__name__)

EVERY_S = 1.0  # at most one line of each route and status in this time
PROBED = frozenset({"/ready", "/health"})  # polled: a 503 is a normal answer


class RequestLog:
    """Lives on the event loop."""

    def __init__(self) -> None:
        self._limit = RateLimit(EVERY_S)

    def answered(self, method: str, route: str, status: int, seconds: float, error: str | None) -> None:
        """Log an answer; `error` is the code of its error (metarm/errors.py)."""
        if status < 400 or route in PROBED:
            if log.isEnabledFor(logging.DEBUG):
                self._write(logging.DEBUG, method, route, status, seconds, error)
            return
        suppressed = self._limit.admit((route, status))
        if suppressed is not None:
            self._write(logging.WARNING, method, route, status, seconds, error, suppressed)

    def _write(
        self,
        level: int,
        method: str,
        route: str,
        status: int,
        seconds: float,
        error: str | None,
        suppressed: int = 0,
    ) -> None:
        more = f", and {suppressed} like it since the last line" if suppressed else ""
        fields = {"route": route, "status": status, "duration_s": round(seconds, 6), "error": error}
        known = {name: value for name, value in fields.items() if value is not None}
        log.log(level, "%s answered with %d%s", method, status, more, extra=known)
