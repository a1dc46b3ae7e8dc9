"""A client that leaves: the work that its request waits for ends, and its answer counts as undelivered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.types import Receive

from metarm.errors import ClientDisconnectedError
from service.telemetry.metrics import Metrics


@asynccontextmanager
async def client_present(request: Request, metrics: Metrics) -> AsyncIterator[None]:
    """Cancel the block when the request's client leaves; what follows the block is done for a client that was
    there when the answer was ready. Raises ClientDisconnectedError if it was not.

    The body of the request must have been read. The block may be cancelled at any await, so it must not leave
    anything half done: it waits and computes, it does not write.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (a request has a task)
    watcher = asyncio.create_task(_cancel_at_disconnect(request.receive, task), name="client-watch")
    stage = "waiting"
    try:
        yield
        stage = "answered"
        await asyncio.sleep(0)  # the watcher's turn, if the client has left just now
    except asyncio.CancelledError:
        others_cancel_too = watcher.done() and task.uncancel()
        if not watcher.done() or others_cancel_too:
            raise
        metrics.undelivered.labels(request.scope["route"].path, stage).inc()
        raise ClientDisconnectedError(f"the client left before its answer ({stage})") from None
    finally:
        watcher.cancel()


async def _cancel_at_disconnect(receive: Receive, task: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()
