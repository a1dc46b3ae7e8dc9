"""Middleware of every request, in plain ASGI: id, method and path, metrics, log line, end of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metarm.errors import RequestTimeoutError
from metarm.runtime import logs
from service.http import bodies
from service.telemetry.metrics import Metrics
from service.telemetry.request_log import RequestLog

REQUEST_ID = "x-request-id"
VALID_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)  # no other id enters a log
SHORT_BODY = 2**16  # bytes
LINGER_S = 2.0  # between an answer and the end of its connection
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


class Linger:
    """Closes the connection after an answer that precedes the end of a body, if that is long, of unknown
    length, or late. First it drops what still arrives for a short time: unread data would reset the connection,
    and a client that still sends could lose the answer. The web server drops the rest of a short one."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (announced := bodies.announced(scope)) is None:
            await self._app(scope, receive, send)
            return
        long = announced.length is None or announced.length > SHORT_BODY
        ended = closing = False

        async def receive_noting_end() -> Message:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body", False)
            return message

        async def send_before_closing(message: Message) -> None:
            nonlocal closing
            if message["type"] == "http.response.start":
                closing = not ended and (long or message["status"] == RequestTimeoutError.status)
                if closing:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            elif closing and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await drop_body()
                message = {"type": "http.response.body"}
            await send(message)

        async def drop_body() -> None:
            left = self._max_bytes
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while left > 0 and not ended:
                        left -= len((await receive_noting_end()).get("body", b""))

        await self._app(scope, receive_noting_end, send_before_closing)


class Canonical:
    """Serves HEAD as GET, of which the web server sends the headers only, and a path with a trailing slash as
    the path without it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].rstrip("/") or "/"
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            if (method, path) != (scope["method"], scope["path"]):
                scope = {**scope, "method": method, "path": path}  # the web server's own scope keeps both
        await self._app(scope, receive, send)


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
