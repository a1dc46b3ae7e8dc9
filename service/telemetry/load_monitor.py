"""The server's current load: rates, latencies, queue and batches over a minute, and a short history.

Requests add to counts and to a ring buffer. Every REFRESH_S seconds, figures are computed from them, so that
reading is cheap.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

REFRESH_S = 2.0
KEEP_POINTS = 300  # in the history: ten minutes
NOW_POINTS = 30  # under the current figures: a minute
POINT_STEPS = 5  # refreshes under a point of the history: ten seconds, so that few requests still give a line
KEEP_LATENCIES = 4096  # the newest: with more requests in a minute, quantiles cover only these
SCORING = "/score"


class Work(Protocol):
    """The batcher's work since its start, and its queue."""

    @property
    def queued_tokens(self) -> int: ...

    @property
    def sliced_tokens(self) -> int: ...

    @property
    def slice_room(self) -> int:
        """Tokens for which the slices taken had room."""
        ...


class Counts(NamedTuple):
    """Counts since the start; the difference of two is what happened between them."""

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
        """The rate of a count in this difference."""
        return count / self.at if self.at > 0 else None

    @property
    def batch_fill(self) -> float | None:
        """The share of the slices' room that was used in this difference."""
        return self.sliced_tokens / self.slice_room if self.slice_room else None


class Quantiles(NamedTuple):
    """Quantiles of `requests` latencies, in milliseconds; None without any."""

    requests: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles:
        """Each quantile is the smallest latency that its share of the requests does not exceed."""
        if not seconds:
            return cls(0, None, None, None)
        found = np.quantile(seconds, (0.5, 0.95, 0.99), method="inverted_cdf").tolist()
        return cls(len(seconds), *(1000 * latency for latency in found))


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of the history: figures of the POINT_STEPS · REFRESH_S seconds before it."""

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


class LoadMonitor:
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
        """Count an answered request to /score. Latencies are of those answered with scores."""
        if route != SCORING:
            return
        self._requests += 1
        self._failed += status >= 500
        if status == 200:
            self._latencies.append((self._clock(), seconds))

    def scored(self, responses: int, tokens: int) -> None:
        """Count answered scores and the tokens of their sequences."""
        self._responses += responses
        self._tokens += tokens

    def refresh(self, work: Work, serving: str | None) -> None:
        """Compute the figures of this moment; half a millisecond at most."""
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
        minute = [(at, seconds) for at, seconds in self._latencies if now - at <= NOW_POINTS * REFRESH_S]
        self._latency = Quantiles.of([seconds for _, seconds in minute])
        recent = Quantiles.of([seconds for at, seconds in minute if now - at <= POINT_STEPS * REFRESH_S])
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
        """The figures of the last minute; null if there is no data for them."""
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
