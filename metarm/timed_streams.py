"""Streams that end with the exchange they serve: httpx limits each read and each write, but not their sum."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

PIECE_BYTES = 2**16  # a write may take its time limit for each piece that the peer accepts

_end: ContextVar[float] = ContextVar("end of the exchange, by time.monotonic", default=math.inf)


@contextmanager
def ending(end: float) -> Iterator[None]:
    """Everything that this thread reads or writes inside fails with a timeout of httpx at `end`, by
    time.monotonic."""
    token = _end.set(end)
    try:
        yield
    finally:
        _end.reset(token)


def use_timed_streams(http: httpx.Client) -> None:
    """Make the client, which has sent nothing yet, open its connections with TimedBackend.

    httpx has no parameter for the backend of httpcore. Where a later httpx has no such pool, its own limits
    hold alone.
    """
    for transport in (http._transport, *http._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if isinstance(pool, httpcore.ConnectionPool):
            pool._network_backend = TimedBackend()


def _left_s(timeout: float | None, over: type[httpcore.TimeoutException]) -> float | None:
    """The timeout within the exchange. Raises `over` after its end."""
    left_s = _end.get() - time.monotonic()
    if left_s <= 0:
        raise over("the time of the exchange is over")
    shorter_s = left_s if timeout is None else min(timeout, left_s)
    return shorter_s if math.isfinite(shorter_s) else None


class TimedBackend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        limit_s = _left_s(timeout, httpcore.ConnectTimeout)
        return TimedStream(self._sockets.connect_tcp(host, port, limit_s, local_address, socket_options))


class TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE_BYTES):
            piece = buffer[start : start + PIECE_BYTES]
            self._stream.write(piece, _left_s(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        limit_s = _left_s(timeout, httpcore.ConnectTimeout)
        return TimedStream(self._stream.start_tls(ssl_context, server_hostname, limit_s))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
