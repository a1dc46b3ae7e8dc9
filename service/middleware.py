"""What wraps every request, as plain ASGI: the body limit, and the request metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics


class BodyLimit:
    """Refuses a body over `max_bytes` (413) when it is read, before it is held whole."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"")
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if not (declared.isdigit() and int(declared) > self._max_bytes):
                message = await receive()
                seen += len(message.get("body", b""))
                if seen <= self._max_bytes:
                    return message
            raise HTTPException(413, f"the request body is over {self._max_bytes} bytes")

        await self._app(scope, counted, send)


class Measure:
    """Counts and times every answer, by route. `answered` is told route, status and seconds of each."""

    def __init__(self, app: ASGIApp, metrics: Metrics, answered: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._metrics = metrics
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.perf_counter() - started
            self._metrics.requests.labels(route, status).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            self._answered(route, status, seconds)
