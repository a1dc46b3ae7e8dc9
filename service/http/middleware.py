"""Middleware of every request, in plain ASGI: its id, the body limit, its metrics and its log line."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metarm.runtime import logs
from service.telemetry.metrics import Metrics
from service.telemetry.request_log import RequestLog

REQUEST_ID = "x-request-id"
VALID_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)  # no other id enters a log
ID_KEY, ERROR_KEY = "metarm.request_id", "metarm.error"  # of the ASGI scope


class Identify:
    """Gives every request an id, the caller's own if it is well-formed, and returns it in X-Request-ID."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = sent.decode() if VALID_ID.fullmatch(sent) else uuid.uuid4().hex
        scope[ID_KEY] = request_id
        logs.about_request(request_id)
        header = (b"x-request-id", request_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Rejects a body over `max_bytes` (413) while it is read, before all of it is in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"")
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            if not (declared.isdigit() and int(declared) > self._max_bytes):
                message = await receive()
                seen += len(message.get("body", b""))
                if seen <= self._max_bytes:
                    return message
            raise HTTPException(413, f"the request body exceeds {self._max_bytes} bytes: send smaller requests")

        await self._app(scope, receive_counted, send)


class Measure:
    """Counts and times every answer by route, and logs errors. `on_answer` receives the route, the status and
    the seconds of each answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, on_answer: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._metrics = metrics
        self._on_answer = on_answer
        self._log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.perf_counter() - started
            self._metrics.requests.labels(route, status).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            self._log.answered(scope["method"], route, status, seconds, scope.get(ERROR_KEY))
            self._on_answer(route, status, seconds)
