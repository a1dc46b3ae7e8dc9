"""A bounded buffer in front of the sample log, which delays no score and counts the groups it drops."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from metarm.runtime import tracing
from metarm.runtime.loops import LoopHealth
from metarm.shared.sample_log import LoggedRequest, SampleLog
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.context import Context

log = logging.getLogger(__name__)

WRITE_AT_ONCE = 200  # requests in one round trip
TRIM_EVERY_S = 10.0
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
SHUTDOWN_S = 10.0


@dataclass(frozen=True, slots=True)
class _Offered:
    """A request's groups, and its trace context."""

    request: LoggedRequest
    context: Context | None


class SampleWriter:
    """Writes scored requests to the log from a thread.

    While Redis does not answer, requests wait here, up to `buffer_groups` groups; beyond that the newest are
    dropped. A write whose answer was lost is repeated under the same request id, which the log takes once.
    """

    def __init__(
        self,
        sample_log: SampleLog,
        metrics: Metrics,
        loop: LoopHealth,
        *,
        buffer_groups: int,
        max_groups: int,
        max_age_s: float,
    ) -> None:
        self._log = sample_log
        self._metrics = metrics
        self._buffer_groups = buffer_groups
        self._max_groups = max_groups
        self._max_age_s = max_age_s
        self._waiting: deque[_Offered] = deque()
        self._groups_waiting = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="sample-writer", daemon=True)
        self._health = loop

    @property
    def groups_waiting(self) -> int:
        """Groups in the buffer."""
        return self._groups_waiting

    def start(self) -> None:
        self._thread.start()

    def offer(self, request: LoggedRequest) -> None:
        """Take a request's groups, or drop and count them. Does not block."""
        with self._changed:
            if self._groups_waiting + len(request.groups) > self._buffer_groups:
                self._metrics.samples_dropped.labels("buffer_full").inc(len(request.groups))
                return
            self._waiting.append(_Offered(request, tracing.current_context()))
            self._groups_waiting += len(request.groups)
            self._metrics.samples_buffered.set(self._groups_waiting)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until every offered group is in the log; False if it takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._groups_waiting == 0, timeout_s)

    def close(self) -> None:
        """Write the remaining groups, then stop; those that Redis does not take in time are dropped and
        counted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(SHUTDOWN_S + 5.0)

    def _run(self) -> None:
        failures, next_trim, deadline = 0, 0.0, float("inf")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, TRIM_EVERY_S)
                if self._closing:
                    deadline = min(deadline, time.monotonic() + SHUTDOWN_S)
                    if not self._waiting or time.monotonic() > deadline:
                        self._drop_rest()
                        return
                batch = [self._waiting[i] for i in range(min(WRITE_AT_ONCE, len(self._waiting)))]
            try:
                asked = self._deliver(batch) if batch else False
                if time.monotonic() >= next_trim:
                    self._trim()
                    next_trim = time.monotonic() + TRIM_EVERY_S
                elif not asked:
                    continue  # Redis was not asked: its state is unknown
                self._metrics.redis_up.set(1)
                self._health.succeeded()
                failures = 0
            except Exception as error:  # noqa: BLE001 (reported: the thread survives any error)
                if isinstance(error, redis.RedisError):
                    self._metrics.redis_up.set(0)
                self._health.failed(error)
                time.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1

    def _deliver(self, batch: Sequence[_Offered]) -> bool:
        """Write the first requests of the buffer and remove them. One that cannot be encoded is dropped, alone.
        Returns whether Redis was asked."""
        try:
            written = self._write(batch)
        except (TypeError, ValueError) as error:
            if len(batch) > 1:
                asked = [self._deliver([offered]) for offered in batch]
                return any(asked)
            log.exception("dropped a request that cannot be encoded for the log: %s", error)
            self._remove(batch, written=0, reason="unencodable")
            return False
        self._remove(batch, written=written, reason="duplicate")
        return True

    def _write(self, batch: Sequence[_Offered]) -> int:
        """The number of groups that were new to the log."""
        began = time.monotonic_ns()
        written = self._log.append([offered.request for offered in batch])
        for offered in batch:
            groups = len(offered.request.groups)
            tracing.record("log", began, time.monotonic_ns(), offered.context, groups=groups)
        return written

    def _remove(self, batch: Sequence[_Offered], *, written: int, reason: str) -> None:
        """Remove the first requests from the buffer. `written` of their groups are in the log; the others are
        counted as dropped for `reason`."""
        groups = sum(len(offered.request.groups) for offered in batch)
        self._metrics.samples_logged.inc(written)
        if groups > written:
            self._metrics.samples_dropped.labels(reason).inc(groups - written)
        with self._changed:
            for _ in batch:
                self._waiting.popleft()
            self._groups_waiting -= groups
            self._metrics.samples_buffered.set(self._groups_waiting)
            self._changed.notify_all()

    def _trim(self) -> None:
        for reason, entries in self._log.trim(self._max_groups, self._max_age_s).items():
            if entries:
                self._metrics.samples_dropped.labels(f"trimmed_{reason}").inc(entries)

    def _drop_rest(self) -> None:
        if self._groups_waiting:
            self._metrics.samples_dropped.labels("shutdown").inc(self._groups_waiting)
            log.error(
                "%d sample groups were lost at shutdown, because Redis did not take them: %s",
                self._groups_waiting,
                self._health.error,
            )
