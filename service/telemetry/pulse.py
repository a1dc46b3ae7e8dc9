"""What the service does just now: rates, latencies, queue and batches over a minute, and a short history.

Requests add to counts and to a ring; everything else is worked out between them, every EVERY_S seconds, so
that whoever asks is handed what is there already.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

EVERY_S = 2.0
KEEP_POINTS = 300  # of the history: ten minutes
NOW_POINTS = 30  # what the figures of now are over: a minute
POINT_STEPS = 5  # what a point of the history is over: ten seconds, so that few requests give a line as well
KEEP_LATENCIES = 4096  # the newest; under more requests a minute the quantiles are over these alone
SCORING = "/score"


class Work(Protocol):
    """What the batcher has done since it began, and what waits for it."""

    @property
    def queued_tokens(self) -> int: ...

    @property
    def sliced_tokens(self) -> int: ...

    @property
    def slice_room(self) -> int:
        """Tokens that the slices taken could have held."""
        ...


class Counts(NamedTuple):
    """Since the beginning; what came between two moments is the difference."""

    at: float  # time.monotonic()
    requests: int
    failed: int
    responses: int
    tokens: int
    sliced_tokens: int
    slice_room: int

    def since(self, earlier: Counts) -> Counts:
        return Counts._make(now - before for now, before in zip(self, earlier, strict=True))

    def per_s(self, count: int) -> float | None:
        """Of a difference: its rate."""
        return count / self.at if self.at > 0 else None

    @property
    def batch_fill(self) -> float | None:
        """Of a difference: the share of the slices' room that was used."""
        return self.sliced_tokens / self.slice_room if self.slice_room else None


class Quantiles(NamedTuple):
    """Of `requests` latencies, in milliseconds; None without any."""

    requests: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles:
        """Each is the smallest latency that its share of the requests does not exceed."""
        ordered, size = sorted(seconds), len(seconds)
        shares = (0.5, 0.95, 0.99)
        found = [1000 * ordered[max(0, math.ceil(q * size) - 1)] if size else None for q in shares]
        return cls(size, *found)


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of the history: figures of the POINT_STEPS · EVERY_S seconds before it."""

    at: float  # Unix time in seconds
    serving: str | None
    requests_per_s: float | None
    responses_per_s: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    queue_tokens: int
    batch_fill: float | None


HISTORY = tuple(Point.__slots__)


class Pulse:
    """Lives on the event loop."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """Both clocks in seconds: `clock` for intervals, `wall_clock` for the times of the history."""
        self._clock, self._wall_clock = clock, wall_clock
        self.started = wall_clock()
        self._requests = self._failed = self._responses = self._tokens = 0
        self._latencies: deque[tuple[float, float]] = deque(maxlen=KEEP_LATENCIES)  # when answered, seconds
        self._counts: deque[Counts] = deque(maxlen=NOW_POINTS + 1)
        self._points: deque[Point] = deque(maxlen=KEEP_POINTS)
        self._latency = Quantiles.of([])

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request, of whichever route. Latencies are of those that were scored."""
        if route != SCORING:
            return
        self._requests += 1
        self._failed += status >= 500
        if status == 200:
            self._latencies.append((self._clock(), seconds))

    def scored(self, responses: int, tokens: int) -> None:
        """Count scores that were answered, and the tokens they are of."""
        self._responses += responses
        self._tokens += tokens

    def look(self, work: Work, serving: str | None) -> None:
        """Work out the figures of this moment; half a millisecond at most."""
        now = self._clock()
        counts = Counts(
            now,
            self._requests,
            self._failed,
            self._responses,
            self._tokens,
            work.sliced_tokens,
            work.slice_room,
        )
        self._counts.append(counts)
        minute = [(at, seconds) for at, seconds in self._latencies if now - at <= NOW_POINTS * EVERY_S]
        self._latency = Quantiles.of([seconds for _, seconds in minute])
        recent = Quantiles.of([seconds for at, seconds in minute if now - at <= POINT_STEPS * EVERY_S])
        if len(self._counts) < 2:
            return
        new = counts.since(self._counts[max(0, len(self._counts) - 1 - POINT_STEPS)])
        self._points.append(
            Point(
                self._wall_clock(),
                serving,
                new.per_s(new.requests),
                new.per_s(new.responses),
                recent.p50_ms,
                recent.p95_ms,
                recent.p99_ms,
                work.queued_tokens,
                new.batch_fill,
            )
        )

    def now(self) -> dict[str, Any]:
        """The figures of the last minute; null where nothing was there to tell them by."""
        counts = self._counts[-1].since(self._counts[0]) if self._counts else None
        rates = {
            f"{name}_per_s": counts.per_s(getattr(counts, name)) if counts else None
            for name in ("requests", "failed", "responses", "tokens")
        }
        return {
            "over_s": counts.at if counts else 0.0,
            **rates,
            "latency": self._latency._asdict(),
            "batch_fill": counts.batch_fill if counts else None,
        }

    def history(self, since: float) -> dict[str, list[Any]]:
        """The points after the Unix time `since`, by column."""
        points = [point for point in self._points if point.at > since]
        return {name: [getattr(point, name) for point in points] for name in HISTORY}
