"""Connections at the socket: how long they stay, what they may send, and how they are refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.http.connections import MAX_HEAD_BYTES, MAX_WAITING, PIECE, Connection
from service.telemetry.request_log import RequestLog
from tests.processes import HttpThread, RedisProcess, service_here

POST = b"POST /score HTTP/1.1\r\nHost: x\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
TIMEOUT_S, KEEP_ALIVE_S = 0.5, 1.5  # of the short server
LATER_S = 20.0  # far above both


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RedisProcess(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[HttpThread]:
    """A server of short deadlines. It has no model: the routes here need none."""
    times = {"METARM_HEADER_TIMEOUT_S": str(TIMEOUT_S), "METARM_KEEP_ALIVE_S": str(KEEP_ALIVE_S)}
    with service_here(tmp_path_factory.mktemp("short"), redis_url, **times) as running:
        yield running


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[HttpThread]:
    """A server of the default deadlines."""
    with service_here(tmp_path_factory.mktemp("usual"), redis_url) as running:
        yield running


class Raw:
    """A connection whose every byte the test sends."""

    def __init__(self, server: HttpThread) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=LATER_S)
        self._read = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._read.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """The status, headers and JSON of the next answer."""
        status = int(self._read.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._read.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, json.loads(self._read.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        """Wait for the server to close the connection; False if it sends anything before."""
        with contextlib.suppress(ConnectionResetError):  # closed while it had bytes to read
            return self._read.read(1) == b""
        return True


def refused(connection: Raw, status: int, code: str) -> str:
    """Check the next answer, and that the connection ends after it; the error's message."""
    found, headers, body = connection.answer()
    assert (found, body["error"]["code"]) == (status, code)
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"]
    assert connection.is_closed()
    return str(body["error"]["message"])


@pytest.mark.slow
def test_an_idle_connection_outlives_the_pools_of_clients_by_default(usual: HttpThread) -> None:
    with Raw(usual) as connection:
        connection.send(HEALTH)
        assert connection.answer()[0] == 200
        time.sleep(6)  # uvicorn's own default is 5 s
        connection.send(HEALTH)
        assert connection.answer()[0] == 200


def test_an_idle_connection_closes_after_its_time(short: HttpThread) -> None:
    with Raw(short) as connection:
        connection.send(HEALTH)
        assert connection.answer()[0] == 200
        began = time.monotonic()
        assert connection.is_closed()
        assert time.monotonic() - began > KEEP_ALIVE_S / 2  # not after the deadline of headers


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"\r\n\r\n", HEALTH + b"\r\n"],
    ids=["nothing", "newline", "newlines", "after a request"],
)
def test_a_connection_that_begins_no_request_is_closed_silently(short: HttpThread, sent: bytes) -> None:
    with Raw(short) as connection:
        connection.send(sent)
        if HEALTH in sent:
            assert connection.answer()[0] == 200
        assert connection.is_closed()


@pytest.mark.parametrize("before", [b"", HEALTH], ids=["first", "second"])
@pytest.mark.parametrize(
    "begun",
    [b"G", b"GET /hea", b"POST /score HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: a"],
    ids=["method", "target", "line", "header"],
)
def test_a_request_whose_head_does_not_end_in_time_is_408(
    short: HttpThread, before: bytes, begun: bytes
) -> None:
    with Raw(short) as connection:
        connection.send(before + begun)
        if before:
            assert connection.answer()[0] == 200
        message = refused(connection, 408, "request_timeout")
        assert "METARM_HEADER_TIMEOUT_S" in message


def test_headers_that_trickle_do_not_extend_the_deadline(short: HttpThread) -> None:
    with Raw(short) as connection:
        connection.send(b"GET /health HTTP/1.1\r\n")
        connection.socket.settimeout(TIMEOUT_S / 10)
        began = time.monotonic()
        received = b""
        while not received:
            assert time.monotonic() - began < LATER_S
            connection.send(b"a: b\r\n")
            try:
                received = connection.socket.recv(12)
            except TimeoutError:
                continue
        assert received == b"HTTP/1.1 408"


def test_a_body_may_take_longer_than_the_deadline_of_headers(short: HttpThread) -> None:
    body = b'{"groups": []}'
    with Raw(short) as connection:
        connection.send(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 2):
            time.sleep(TIMEOUT_S / 5)
            connection.send(body[start : start + 2])
        assert connection.answer()[0] == 422


def test_the_rest_of_an_answered_request_has_a_deadline(short: HttpThread) -> None:
    with Raw(short) as connection:
        connection.send(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab")
        assert connection.answer()[0] == 404
        assert connection.is_closed()


def test_a_connection_stays_after_the_rest_of_an_answered_request(short: HttpThread) -> None:
    with Raw(short) as connection:
        connection.send(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234")
        assert connection.answer()[0] == 404
        connection.send(b"56789")
        time.sleep((TIMEOUT_S + KEEP_ALIVE_S) / 2)
        connection.send(HEALTH)
        assert connection.answer()[0] == 200


def head(size: int) -> bytes:
    """A request whose line and headers have `size` bytes, as the limit counts them."""
    return (
        b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * (size - len("/health") - len("x-long") - 4) + b"\r\n\r\n"
    )


def test_headers_up_to_the_limit_are_read(usual: HttpThread) -> None:
    with Raw(usual) as connection:
        connection.send(head(MAX_HEAD_BYTES))
        assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        head(MAX_HEAD_BYTES + 1),
        head(8 * MAX_HEAD_BYTES),
        b"GET /" + b"a" * 2 * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 6) + b"Host: x\r\n\r\n",
    ],
    ids=["just over", "far over", "target", "many"],
)
def test_headers_above_the_limit_are_431(usual: HttpThread, sent: bytes) -> None:
    with Raw(usual) as connection:
        connection.send(sent)
        message = refused(connection, 431, "headers_too_large")
        assert str(MAX_HEAD_BYTES) in message


def test_headers_that_never_end_are_431_before_they_are_in_memory(usual: HttpThread) -> None:
    with Raw(usual) as connection:
        connection.send(b"GET /health HTTP/1.1\r\nX-Endless: ")
        sent = 0
        connection.socket.setblocking(False)
        while sent < 64 * 2**20:
            try:
                sent += connection.socket.send(b"a" * 16384)
                if connection.socket.recv(1, socket.MSG_PEEK):
                    break
            except BlockingIOError:
                time.sleep(0.001)
        assert sent < 32 * 2**20  # what the kernel's buffers hold, and what was discarded meanwhile
        connection.socket.settimeout(LATER_S)
        assert connection.answer()[0] == 431


def test_fields_after_a_chunked_body_are_limited_and_no_headers(usual: HttpThread) -> None:
    start = b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    with Raw(usual) as connection:
        connection.send(start + b"X-Request-ID: trailing\r\n\r\n" + HEALTH)
        status, headers, _ = connection.answer()
        assert status == 422
        assert headers["x-request-id"] != "trailing"
        assert connection.answer()[0] == 200
    with Raw(usual) as connection:
        connection.send(start)
        connection.send(b"X-Endless: " + b"a" * 4 * MAX_HEAD_BYTES)
        assert connection.answer()[0] == 431
        assert connection.is_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=[
        "tls",
        "text",
        "no target",
        "version",
        "header",
        "length",
        "bytes",
        "connect",
        "http2",
        "two lengths",
        "chunk",
        "upgrade with a body",
    ],
)
def test_what_is_no_http_request_is_400_in_the_one_error_shape(usual: HttpThread, sent: bytes) -> None:
    with Raw(usual) as connection:
        connection.send(sent)
        refused(connection, 400, "malformed_request")


def test_an_upgrade_is_answered_as_any_request(usual: HttpThread) -> None:
    upgrade = HEALTH[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with Raw(usual) as connection:
        connection.send(upgrade + HEALTH)
        assert [connection.answer()[0] for _ in range(2)] == [200, 200]


def test_requests_sent_at_once_are_answered_in_order_before_a_broken_one(usual: HttpThread) -> None:
    missing = b"GET /missing HTTP/1.1\r\nHost: x\r\n\r\n"
    with Raw(usual) as connection:
        connection.send(HEALTH + missing + HEALTH + b"broken\r\n\r\n")
        assert [connection.answer()[0] for _ in range(3)] == [200, 404, 200]
        refused(connection, 400, "malformed_request")


def test_any_number_of_requests_sent_at_once_is_answered_in_order(usual: HttpThread) -> None:
    missing = b"GET /missing HTTP/1.1\r\nHost: x\r\n\r\n"
    posted = POST + b"Content-Length: 10000\r\n\r\n" + b" " * 10_000
    expected = [200, 404, 400] * 300
    with Raw(usual) as connection:
        sender = threading.Thread(
            target=connection.send, args=((HEALTH + missing + posted) * 300 + b"broken\r\n\r\n",)
        )
        sender.start()
        assert [connection.answer()[0] for _ in expected] == expected
        sender.join()
        refused(connection, 400, "malformed_request")


def test_no_request_is_parsed_while_too_many_wait() -> None:
    """Otherwise all requests of one read are made before another client is served."""

    async def never_answers(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        made: list[Connection] = []

        def connection() -> Connection:
            config = uvicorn.Config(never_answers, lifespan="off", log_config=None)
            config.load()
            made.append(Connection(config, ServerState(), {}, header_timeout_s=LATER_S, log=RequestLog()))
            return made[-1]

        listening = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
        async with listening, asyncio.timeout(LATER_S):
            _, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            writer.write(HEALTH * 100_000)
            while not (made and made[0].pipeline):  # noqa: ASYNC110 (a connection sets no event)
                await asyncio.sleep(0.005)
            [reading] = made
            most = MAX_WAITING + PIECE // len(HEALTH)
            assert MAX_WAITING <= len(reading.pipeline) <= most
            reading.flow.resume_reading()  # as the application does for each body that it reads
            assert reading.flow.read_paused
            writer.transport.abort()
            reading.transport.abort()
            while reading in reading.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert all(cycle.disconnected for cycle, _ in reading.pipeline)
            for task in tuple(reading.tasks):
                task.cancel()

    asyncio.run(main())


def test_a_broken_body_of_a_later_request_waits_for_the_answers_before_it(usual: HttpThread) -> None:
    start = b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Raw(usual) as connection:
        connection.send(HEALTH + start + b"zz\r\n")
        assert connection.answer()[0] == 200
        refused(connection, 400, "malformed_request")


def test_a_client_that_sends_on_reads_its_refusal_and_is_cut_off(usual: HttpThread) -> None:
    with Raw(usual) as connection:
        connection.send(b"broken\r\n\r\n")
        began = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 (any of these sends)
            while time.monotonic() - began < LATER_S:
                connection.send(b"x" * 1024)
                time.sleep(0.01)
