"""A client that leaves: the work that its request waits for ends, and its answer counts as undelivered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from fastapi import Request

from metarm.errors import ClientDisconnectedError
from service.telemetry.metrics import Metrics

PRESENCE = "metarm.presence"  # of the ASGI scope; set by the connection (connections.py)


class Presence:
    """Whether the client of a request is still there, as its connection sees it."""

    __slots__ = ("has_left", "on_leaving")

    def __init__(self) -> None:
        self.has_left = False
        self.on_leaving: Callable[[], None] | None = None

    def leave(self) -> None:
        self.has_left = True
        if self.on_leaving is not None:
            self.on_leaving()


class ClientPresent:
    """`with ClientPresent(request, metrics):` cancels the block when the request's client leaves. What follows
    the block is done for a client that was there when the answer was ready. Raises ClientDisconnectedError if
    it was not. Under another web server than ours no client is seen to leave.

    The block may be cancelled at any await, so it must not leave anything half done: it waits and computes, it
    does not write.
    """

    def __init__(self, request: Request, metrics: Metrics) -> None:
        self._presence: Presence = request.scope.get(PRESENCE) or Presence()
        self._request = request
        self._metrics = metrics
        self._cancelled = False

    def __enter__(self) -> None:
        if self._presence.has_left:
            raise self._disconnected("waiting")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a request has a task)
        self._task = task
        self._presence.on_leaving = self._cancel

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._presence.on_leaving = None
        cancelled_by_others = self._cancelled and self._task.uncancel() > 0
        if self._cancelled and kind is asyncio.CancelledError and not cancelled_by_others:
            raise self._disconnected("waiting") from None
        if kind is None and self._presence.has_left:
            raise self._disconnected("answered")

    def _cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()

    def _disconnected(self, stage: str) -> ClientDisconnectedError:
        self._metrics.undelivered.labels(self._request.scope["route"].path, stage).inc()
        return ClientDisconnectedError(f"the client left before its answer ({stage})")
