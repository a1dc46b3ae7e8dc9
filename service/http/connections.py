"""One HTTP/1.1 connection: deadlines for what it must send, a limit of its headers, errors in the JSON shape.

It extends uvicorn's protocol on httptools, which has no deadline before a request is complete, no limit of
headers, and answers malformed HTTP in plain text. The deadline of a body is not here: the application reads it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from typing import Any

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from metarm.errors import HeadersTooLargeError, MalformedRequestError, MetaRMError, RequestTimeoutError
from service.http.disconnects import PRESENCE, Presence
from service.telemetry.request_log import RequestLog

MAX_HEAD_BYTES = 64 * 1024  # request line and headers, as the server reads them
LINGER_S = 2.0  # to discard what a refused client still sends: a close with unread bytes can destroy its answer
PIECE = 4096  # bytes that are parsed before the next check of what they hold
MAX_WAITING = 8  # requests behind the one that is answered; the piece that passes it may hold more
BODY_HEADERS = (b"content-length", b"transfer-encoding")  # with an upgrade, the parser loses the body


class _Flow(FlowControl):
    """Reading stays paused while it is held, although uvicorn resumes it for each request."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """Reads requests and answers them in order. What is never a request is refused, and the connection closed.

    One timer runs at a time at most: uvicorn's for an idle connection, or, while no request is being answered,
    the deadline of a head (request line and headers) that is not complete. An ordinary request starts none.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        header_timeout_s: float,
        log: RequestLog,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._header_timeout_s = header_timeout_s
        self._log = log
        # of a head, of the rest of a body that is answered, or of a refused client
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False  # from the first byte of a head to its last
        self._in_body = False
        self._check_head = False  # whether a head that ends in these bytes may be too large
        self._unbroken = 0  # bytes since the last end of a head or piece of a body, without the first ones
        self._refusal: MetaRMError | None = None  # nothing is read once it is set
        self._unanswered: deque[RequestResponseCycle] = deque()  # in order
        self._unparsed = b""  # nothing is read while too many requests wait

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.flow = self._flow = _Flow(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        self._unparsed = b""
        for cycle in self._unanswered:
            cycle.disconnected = True  # uvicorn marks only the latest
            cycle.message_event.set()
            _presence(cycle).leave()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it after a reset

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        was_in_body = self._in_body
        self._unparsed += data
        if not self._parse():
            return
        if not self._awaits_request:
            self._end_deadline()
        elif was_in_body and not (self._in_body or self._in_head):
            self._end_deadline()
            self._keep_alive()
        else:
            self._set_deadline()

    def _parse(self) -> bool:
        """Parse what was read, in pieces, until too many requests wait. Then reading is held up, until some of
        them have their answers. False if the client is refused."""
        data, place = self._unparsed, 0
        while place < len(data) and len(self.pipeline) < MAX_WAITING and self._refusal is None:
            piece = data[place : place + PIECE]
            place += len(piece)
            self._parse_piece(piece)
        self._unparsed = data[place:] if self._refusal is None else b""
        self._flow.held = bool(self._unparsed)
        if self._flow.held:
            self.flow.pause_reading()
        return self._refusal is None

    def _parse_piece(self, piece: bytes) -> None:
        self._check_head = self._in_head
        self._unbroken += len(piece)
        try:
            self._feed(piece)
        except httptools.HttpParserError as error:
            cause = error.__context__  # what a callback has raised
            if not isinstance(cause, MetaRMError):
                cause = MalformedRequestError("this is not HTTP/1.1, or it is broken")
            self._refuse(cause)
        else:
            if self._unbroken > MAX_HEAD_BYTES:
                self._refuse(_too_large())

    def _feed(self, data: bytes) -> None:
        """Raises HttpParserError, for the errors of the callbacks below too."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:  # it is answered as any other request
                data = data[upgrade.args[0] :]

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._unbroken = True, 0

    def on_headers_complete(self) -> None:
        if self._check_head and self._head_bytes > MAX_HEAD_BYTES:
            raise _too_large()
        if self.parser.should_upgrade() and any(name in BODY_HEADERS for name, _ in self.headers):
            raise MalformedRequestError("send no Upgrade header with a body: this server speaks HTTP/1.1 only")
        super().on_headers_complete()
        self.scope[PRESENCE] = Presence()  # type: ignore[literal-required]  # a key of our own
        self._unanswered.append(self.cycle)
        self.headers = []  # fields after a body are no headers of its request
        self._in_head, self._in_body, self._unbroken = False, True, 0

    def on_body(self, body: bytes) -> None:
        self._unbroken = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._unbroken = False, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._unanswered.popleft()
        more = bool(self.pipeline)
        super().on_response_complete()
        if self._unparsed and not self.transport.is_closing():
            self._parse()
            self.flow.resume_reading()
        if more or self.transport.is_closing():
            return
        if self._refusal is not None:
            self._write_refusal(self._refusal)
        elif self._in_head or self._in_body:
            self._unset_keepalive_if_required()
            self._set_deadline()

    @property
    def _awaits_request(self) -> bool:
        """Whether the client has to send something before this server may: no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._header_timeout_s, self._on_deadline)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self._in_head:
            limit = f"{self._header_timeout_s:g} s (METARM_HEADER_TIMEOUT_S)"
            self._refuse(RequestTimeoutError(f"the headers of the request did not end within {limit}"))
        else:
            self.transport.close()

    def _refuse(self, error: MetaRMError) -> None:
        """Read nothing more. Answer `error` after the requests before it, and close."""
        self._refusal = error
        self._end_deadline()
        if self._awaits_request:
            self._write_refusal(error)
        elif self._in_body:  # of the latest request: it cannot be answered in another way
            if self.pipeline:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self.transport.close()
            else:
                self._write_refusal(error)
                self.cycle.disconnected = True  # what the application answers now is not sent
                self.cycle.message_event.set()

    def _write_refusal(self, error: MetaRMError) -> None:
        self._unset_keepalive_if_required()
        if self.transport.is_closing() or (self._in_body and self.cycle.response_complete):
            self.transport.close()  # the request has its answer already
            return
        self._log.answered("request", "unknown", error.status, 0.0, error.code)
        body = orjson.dumps({"error": error.to_wire()})
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"x-request-id", uuid.uuid4().hex.encode()),
        ]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + body)
        self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER_S, self.transport.abort)


def _presence(cycle: RequestResponseCycle) -> Presence:
    found: Presence = cycle.scope[PRESENCE]  # type: ignore[literal-required]  # a key of our own
    return found


def _too_large() -> HeadersTooLargeError:
    return HeadersTooLargeError(f"request line and headers exceed {MAX_HEAD_BYTES} bytes", limit=MAX_HEAD_BYTES)
