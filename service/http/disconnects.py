"""A client that leaves: the work that its request waits for ends, and its answer counts as undelivered."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from fastapi import Request
from starlette.types import Receive

from metarm.errors import ClientDisconnectedError
from service.telemetry.metrics import Metrics

WATCH_AFTER_S = 0.01  # most answers of small requests come sooner, and then need no task beside them


class ClientWatch:
    """`with ClientWatch(request, metrics):` cancels the block's task when the client leaves.

    The block ends with ClientDisconnectedError if the client has left before its end: what follows the block is
    done for a client that was there when the answer was ready. The body of the request must have been read. The
    block may be cancelled at any await, so it must not leave anything half done: watch waiting, not writing.
    """

    def __init__(self, request: Request, metrics: Metrics) -> None:
        self._request = request
        self._metrics = metrics
        self._left = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a request has a task)
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher:
            self._watcher.cancel()
        if self._left:
            cancelled_by_others = self._task.uncancel() > 0
            if kind is asyncio.CancelledError and not cancelled_by_others:
                raise self._disconnected("waiting")
        if kind is None and (self._left or _has_left(self._request.receive)):
            raise self._disconnected("answered")

    def _start(self) -> None:
        self._watcher = asyncio.create_task(self._watch(), name="client-watch")

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()

    def _disconnected(self, stage: str) -> ClientDisconnectedError:
        route = self._request.scope["route"].path
        self._metrics.undelivered.labels(route, stage).inc()
        return ClientDisconnectedError(f"the client left before its answer ({stage})")


def _has_left(receive: Receive) -> bool:
    """Whether `receive` returns the disconnect now. It is run up to its first wait, which takes no task."""
    waiting = receive()
    try:
        waiting.send(None)  # type: ignore[attr-defined]  # an Awaitable in the type, a coroutine in fact
    except StopIteration as returned:
        return bool(returned.value["type"] == "http.disconnect")
    waiting.close()  # type: ignore[attr-defined]
    return False
