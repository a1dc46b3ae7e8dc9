"""One call of the server: sent again where that can help, within a deadline. Every failure is a ClientError."""

from __future__ import annotations

import json
import math
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from metarm.answers import Answer, noted, read
from metarm.api_keys import fault_of
from metarm.errors import ClientError, MethodNotAllowedError, NotFoundError
from metarm.pauses import MAX_PAUSE_S, asked_pause_s, pause_s
from metarm.timed_streams import ending, use_timed_streams

MAX_REQUEST_S = 86_400.0  # a longer timeout does not fit into a socket's
TIMER_S = 0.01  # a timer may end that early
CONNECT_S = 30.0  # a server that is there accepts a connection before that
MAX_ANSWER_BYTES = 64 * 2**20
KEEP_IDLE_S = 4.0  # less than servers and proxies keep an idle connection (uvicorn alone: 5 s)
NOT_DONE = frozenset({408, 429, 503})  # the request was not carried out, and may be later
PERHAPS_DONE = frozenset({502, 504})  # a proxy's: the server may have carried the request out
NO_SUCH_CALL = frozenset({NotFoundError.status, MethodNotAllowedError.status})
NOT_THIS_API = frozenset({NotFoundError.code, MethodNotAllowedError.code, "unreadable_answer"})
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class Clock(Protocol):
    """The functions of the module `time` that a client uses."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """A method, a path and a JSON body. A `repeatable` call may be carried out twice. `gone` is the code of the
    error that answers a second time, where that is a success."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    repeatable: bool = True
    gone: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Calls:
    """Sends calls to one server. Thread-safe, and usable after a fork."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        timeout_s: float,
        deadline_s: float,
        retries: int,
        clock: Clock,
    ) -> None:
        """Raises ClientError `invalid_request` for a value that no request can be sent with."""
        self._url = _checked_url(base_url)
        self._headers = _checked_headers(api_key)
        self._timeout_s = min(checked_seconds("timeout_s", timeout_s), MAX_REQUEST_S)
        self._deadline_s = checked_seconds("deadline_s", deadline_s)
        if type(retries) is not int or retries < 0:
            raise refused(f"retries is {retries!r}: give a whole number from 0 on")
        self._retries = retries
        self._clock = clock
        self._closed = False
        try:
            self._tls = _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
            self._connect()
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:  # of SSL_CERT_FILE, ALL_PROXY, …
            raise refused(f"the environment's settings for TLS or proxies are unusable: {error}") from error

    def close(self) -> None:
        self._closed = True
        if self._process == os.getpid():
            self._pooled.close()
            self._unpooled.close()

    def deadline(self) -> float:
        """The end of a call that begins now, by the clock."""
        return self._clock.monotonic() + self._deadline_s

    def send(self, call: Call, deadline: float | None = None) -> Answer | None:
        """The answer of a success; None if the call was carried out, but its answer lost (`gone`).

        `deadline` by the clock; by default `deadline_s` from now. Raises ClientError; its `retry_after_s` is
        set if the call may succeed later.
        """
        content = None if call.body is None else _encoded(call, call.body)
        deadline = self.deadline() if deadline is None else deadline
        failures, perhaps_done, pooled = 0, False, call.repeatable
        while True:
            try:
                return self._attempt(call, content, deadline, pooled)
            except _FailedError as failure:
                error = failure.error
                if perhaps_done and call.gone == error.error_code:
                    return None
                perhaps_done = perhaps_done or failure.perhaps_done
                if failure.perhaps_done and not call.repeatable:
                    noted(error, "not sent again, because it may have been carried out")
                    raise error from failure.cause
                if failure.asked_s is not None:
                    error.retry_after_s = math.ceil(min(failure.asked_s, MAX_PAUSE_S))
                if not failure.passes:
                    raise error from failure.cause
                if pooled and failure.stale:
                    pooled = False
                    continue
                wait_s = pause_s(failures, failure.asked_s)
                error.retry_after_s = math.ceil(wait_s)
                if failures == self._retries:
                    raise error from failure.cause
                if self._clock.monotonic() + wait_s >= deadline:
                    noted(error, f"not sent again: deadline_s={self._deadline_s:g} ends before")
                    raise error from failure.cause
            self._clock.sleep(wait_s)
            failures, pooled = failures + 1, call.repeatable

    def _attempt(self, call: Call, content: bytes | None, deadline: float, pooled: bool) -> Answer:
        """Send the request once. Raises _FailedError."""
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            text = f"{call}: not sent: deadline_s={self._deadline_s:g} is over"
            raise _FailedError(ClientError(text, error_code="deadline_exceeded"))
        connected: list[str] = []

        def note(event: str, _info: Any) -> None:
            if event == "connection.connect_tcp.started":
                connected.append(event)

        limit_s = min(self._timeout_s, left_s)
        end = time.monotonic() + limit_s  # real time, whatever the clock: it limits the sockets
        try:
            response, body = self._exchange(call, content, limit_s, end, pooled, note)
        except NEVER_SENT as error:
            if self._is_cut_off(error, left_s, end):
                raise _FailedError(self._cut_off(call), error) from error
            invalid = any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error))
            raise _FailedError(self._unreachable(call, error), error, passes=not invalid) from error
        except httpx.DecodingError as error:
            text = f"{call}: unreadable_answer: {error}"
            raise _FailedError(ClientError(text, error_code="unreadable_answer"), error) from error
        except httpx.TimeoutException as error:
            cut_off = self._is_cut_off(error, left_s, end)
            why = f"the answer is not complete after {limit_s:g} s"
            failed = self._cut_off(call) if cut_off else self._unreachable(call, why)
            raise _FailedError(failed, error, passes=not cut_off, perhaps_done=True) from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise _FailedError(
                self._unreachable(call, error), error, passes=True, perhaps_done=True, stale=not connected
            ) from error
        except Exception as error:  # httpx and what it uses also raise RuntimeError, OSError and ValueError
            unreachable = self._client_closed(call) if self._closed else self._unreachable(call, error)
            raise _FailedError(unreachable, error) from error
        status, headers = response.status_code, response.headers
        try:
            return read(str(call), status, headers.get("location", ""), body)
        except ClientError as error:
            if status in NO_SUCH_CALL and error.error_code in NOT_THIS_API:
                noted(error, f"asked was {response.url.copy_with(userinfo=b'')}")
            raise _FailedError(
                error,
                error.__cause__,
                passes=status in NOT_DONE | PERHAPS_DONE,
                perhaps_done=status in PERHAPS_DONE,
                asked_s=asked_pause_s(headers),
            ) from error

    def _exchange(
        self, call: Call, content: bytes | None, limit_s: float, end: float, pooled: bool, trace: Any
    ) -> tuple[httpx.Response, bytes]:
        """The response and its body, read until `end`. Raises what httpx raises, and RuntimeError after
        `close`."""
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._process != os.getpid():  # a child of fork must not share its parent's connections
            self._connect()
        http = self._pooled if pooled else self._unpooled
        with (
            ending(end),
            http.stream(
                call.method,
                call.path,
                content=content,
                headers={} if content is None else {"Content-Type": "application/json"},
                timeout=httpx.Timeout(limit_s, connect=min(limit_s, CONNECT_S)),
                extensions={"trace": trace},
            ) as response,
        ):
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.strip().lower() not in ("identity", ""):  # decoded, it may be of any size
                return response, f"(the answer has the Content-Encoding {encoding})".encode()
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise httpx.DecodingError(f"the answer exceeds {MAX_ANSWER_BYTES} bytes")
        return response, bytes(body)

    def _connect(self) -> None:
        def connect(kept: int | None) -> httpx.Client:
            limits = httpx.Limits(max_keepalive_connections=kept, keepalive_expiry=KEEP_IDLE_S)
            http = httpx.Client(base_url=self._url, headers=self._headers, limits=limits, verify=self._tls)
            use_timed_streams(http)
            return http

        # A connection that was idle may be dead: a call that must not be repeated opens its own.
        self._pooled, self._unpooled = connect(None), connect(0)
        self._process = os.getpid()

    def _is_cut_off(self, error: Exception, left_s: float, end: float) -> bool:
        """Whether the deadline ended the request, and not a limit of the request's own."""
        over = isinstance(error, httpx.TimeoutException) and time.monotonic() >= end - TIMER_S
        return over and left_s < self._timeout_s

    def _cut_off(self, call: Call) -> ClientError:
        text = f"{call}: no complete answer from {self._place()}: deadline_s={self._deadline_s:g} is over"
        return ClientError(text, error_code="deadline_exceeded")

    def _unreachable(self, call: Call, why: Exception | str) -> ClientError:
        text = f"{call}: no answer from {self._place()} ({str(why) or type(why).__name__})"
        return ClientError(text, error_code="unreachable")

    def _place(self) -> httpx.URL:
        return self._url.copy_with(userinfo=b"")

    def _client_closed(self, call: Call) -> ClientError:
        return ClientError(f"{call}: the client is closed", error_code="client_closed")


class _FailedError(Exception):
    """`passes`: a repetition may succeed. `perhaps_done`: the server may have carried out the request. `stale`:
    the connection had been idle. `asked_s`: the pause that the server asks for."""

    def __init__(
        self,
        error: ClientError,
        cause: BaseException | None = None,
        *,
        passes: bool = False,
        perhaps_done: bool = False,
        stale: bool = False,
        asked_s: float | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.cause = cause
        self.passes = passes
        self.perhaps_done = perhaps_done
        self.stale = stale
        self.asked_s = asked_s


def refused(why: str) -> ClientError:
    """The error for what cannot be sent."""
    return ClientError(f"invalid_request: {why}", error_code="invalid_request")


def checked_seconds(name: str, value: float, *, or_none: bool = False) -> float:
    """Seconds above 0 (with `or_none` also 0), or infinity. Raises ClientError `invalid_request`."""
    number = isinstance(value, int | float) and type(value) is not bool
    if not (number and (value > 0 or (or_none and value == 0))):
        raise refused(f"{name} is {value!r}: give a number of seconds {'from' if or_none else 'above'} 0")
    try:
        return float(value)
    except OverflowError:  # an int above every float
        return math.inf


def path(*names: str) -> str:
    """The path of these names. Raises ClientError `invalid_request` for a name that is none."""
    try:
        if not all(isinstance(name, str) for name in names) or {"", ".", ".."} & {*names}:
            raise ValueError("a name is a text, and neither empty nor dots")
        return "".join(f"/{quote(name, safe='')}" for name in names)
    except ValueError as error:  # also a lone surrogate
        raise refused(f"no path can be made of {names!r:.200}: {error}") from error


def _encoded(call: Call, body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RuntimeError) as error:  # no JSON, NaN or a lone surrogate, too deep
        raise refused(f"{call}: the body cannot be sent as JSON: {error}") from error


def _checked_url(base_url: str) -> httpx.URL:
    form = "give a text of the form http://host:port"
    if not isinstance(base_url, str | httpx.URL):
        raise refused(f"the base URL is {base_url!r:.200}: {form}")
    try:
        url = httpx.URL(base_url)
        usable = url.scheme in ("http", "https") and url.host and not url.query and not url.fragment
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise refused(f"the base URL is invalid ({error}): {form}") from error
    if not usable or not 0 < (url.port or 80) < 65_536:
        raise refused(f"the base URL is {str(url.copy_with(userinfo=b''))!r}: {form}")
    return url


def _checked_headers(api_key: str | None) -> dict[str, str]:
    """Raises ClientError `invalid_request`, which does not name the key, for one that no header can hold."""
    headers = {"Accept-Encoding": "identity"}
    if not api_key:
        return headers
    fault = fault_of(api_key) if isinstance(api_key, str) else "it is no text"
    if fault is not None:
        raise refused(f"the API key cannot be sent: {fault}")
    return {**headers, "Authorization": f"Bearer {api_key}"}


@cache
def _tls_context(_cert_file: str | None, _cert_dir: str | None) -> ssl.SSLContext:
    """The context of the certificates that these variables name: reading them takes 20 ms."""
    return httpx.create_ssl_context()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
