"""The body of a request: its headers checked before it is read, then read and decompressed within bounds."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from email.message import Message
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.types import Scope

from metarm.errors import (
    MalformedRequestError,
    MetaRMError,
    PayloadTooLargeError,
    RequestTimeoutError,
    UnsupportedMediaTypeError,
)
from service.http import json_text
from service.settings import ServiceSettings

ENCODINGS = ("gzip", "deflate")
PIECE = 2**16  # compressed bytes decompressed at once
ACCEPTED = ("application/json", "application/*+json")
GZIP_BEGINS = b"\x1f\x8b"
MAX_TYPE = 200  # characters of a content type
CODINGS = (b"content-type", b"content-encoding", b"transfer-encoding")
DESCRIBING = frozenset({b"content-length", *CODINGS})

Validate = Callable[[Any], tuple[Any, list[dict[str, Any]]]]  # value → (body, errors)


class ReadRequest(Request):
    """A request whose body has been read: FastAPI takes the JSON from here instead of reading it."""

    def __init__(self, request: Request, body: Any, *, empty: bool) -> None:
        super().__init__(request.scope, request.receive)
        self._parsed = body
        self._empty = empty

    async def body(self) -> bytes:
        return b"" if self._empty else b"JSON"  # FastAPI only asks whether there is one

    async def json(self) -> Any:
        return self._parsed


class Announced(NamedTuple):
    """What a client says of a body that it sends: bytes (None: it does not say), type, encodings and transfer
    encodings. Headers that are sent twice are joined by a comma."""

    length: int | None
    kind: str
    encodings: str
    transfer: str

    def check_length(self, settings: ServiceSettings) -> None:
        """Raises PayloadTooLargeError for too long a body."""
        if self.length is not None and self.length > settings.max_body_bytes:
            raise _too_long(f"the request body has {self.length} bytes", settings)


def announced(scope: Scope) -> Announced | None:
    """None if the request has no body."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in DESCRIBING:
            found[name] = b",".join([found[name], value]) if name in found else value
    sent = found.get(b"content-length", b"0")
    if sent == b"0" and b"transfer-encoding" not in found:
        return None
    length = int(sent.lstrip(b"0")[:20] or b"0") if sent.isdigit() and b"content-length" in found else None
    kind, encodings, transfer = (found.get(name, b"").decode("latin-1") for name in CODINGS)
    return Announced(length, kind, encodings, transfer)


async def read(
    request: Request, sent: Announced | None, settings: ServiceSettings, validate: Validate, *, required: bool
) -> ReadRequest:
    """The request with its body: as JSON or, if it is large, as what `validate` makes of that. Raises
    UnsupportedMediaTypeError, RequestTimeoutError, PayloadTooLargeError, MalformedRequestError,
    InvalidRequestError, RequestValidationError."""
    encoding = None
    if sent is not None:
        _check_type(sent.kind)
        if sent.transfer.lower() not in ("", "chunked"):
            raise UnsupportedMediaTypeError(
                f"the transfer encoding is {_quoted(sent.transfer)}: send the body plain or chunked",
                accepted=["chunked"],
            )
        encoding = _encoding(sent.encodings)
    body = await _received(request, settings)
    if not body:
        if required:
            raise MalformedRequestError("the request has no body: send a JSON object")
        return ReadRequest(request, None, empty=True)

    if encoding is None and body.startswith(GZIP_BEGINS):
        raise MalformedRequestError("the body is compressed: say so with 'Content-Encoding: gzip'")
    if encoding is None and json_text.is_small(body):
        return ReadRequest(request, json_text.parse(body, settings), empty=False)

    def validated() -> Any:
        text = _decompressed(body, encoding, settings) if encoding else body
        value = json_text.parse(text, settings)
        valid, errors = validate(value)
        if errors:
            raise RequestValidationError(errors, body=value)
        return valid

    # other requests go on meanwhile; FastAPI takes what is valid already as it is
    return ReadRequest(request, await asyncio.to_thread(validated), empty=False)


def _check_type(sent: str) -> None:
    if sent in ("", "application/json"):
        return
    parsed = Message()
    if len(sent) > MAX_TYPE:  # parsing takes quadratic time
        raise UnsupportedMediaTypeError(
            f"the Content-Type has {len(sent)} characters, over {MAX_TYPE}", accepted=ACCEPTED
        )
    parsed["content-type"] = sent
    kind, charset = parsed.get_content_type(), parsed.get_param("charset", "utf-8")
    if not kind.startswith("application/") or not kind.endswith(("/json", "+json")):
        raise UnsupportedMediaTypeError(
            f"the content type is {_quoted(sent)}: send JSON as application/json", accepted=ACCEPTED
        )
    if str(charset).lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaTypeError(
            f"the charset is {_quoted(str(charset))}: send JSON in UTF-8", accepted=["utf-8"]
        )


def _encoding(sent: str) -> str | None:
    """gzip, deflate, or None for a body that is not compressed."""
    names = [name.strip() for name in sent.lower().split(",", 8)]
    names = [name.removeprefix("x-") for name in names if name not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in ENCODINGS:
        raise UnsupportedMediaTypeError(
            f"the content encoding is {_quoted(sent)}: send the body plain, or in one of "
            f"{', '.join(ENCODINGS)}",
            accepted=["identity", *ENCODINGS],
        )
    return names[0]


async def _received(request: Request, settings: ServiceSettings) -> bytearray:
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise MalformedRequestError("the connection ended before the body")
                body += message.get("body", b"")
                if len(body) > settings.max_body_bytes:
                    raise _too_long("the request body is too long", settings)
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise RequestTimeoutError(
            f"the body did not arrive within {settings.body_timeout_s:g} s (METARM_BODY_TIMEOUT_S)",
            limit=settings.body_timeout_s,
            setting="METARM_BODY_TIMEOUT_S",
            received_bytes=len(body),
        ) from error
    return body


def _decompressed(body: bytearray, encoding: str, settings: ServiceSettings) -> bytearray:
    if encoding == "gzip":
        if not body.startswith(GZIP_BEGINS):
            raise _corrupt(encoding, "it does not begin as gzip does")
        format_bits = zlib.MAX_WBITS | 16
    else:  # the RFC's zlib format, or the raw data that some clients send
        zlib_header = len(body) > 1 and body[0] & 15 == zlib.DEFLATED and (body[0] << 8 | body[1]) % 31 == 0
        format_bits = zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS
    stream = zlib.decompressobj(format_bits)
    pieces: list[bytes] = []
    room = settings.max_body_bytes

    def add(piece: bytes) -> None:
        nonlocal room
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            raise _too_long("the decompressed body is too long", settings)

    try:
        for start in range(0, len(body), PIECE):
            piece = bytes(body[start : start + PIECE])
            while piece and not stream.eof:
                add(stream.decompress(piece, PIECE))
                piece = stream.unconsumed_tail
            if stream.eof and (stream.unused_data or start + PIECE < len(body)):
                raise _corrupt(encoding, "data follows the end of the compressed data")
        while not stream.eof and (rest := stream.decompress(stream.unconsumed_tail, PIECE)):
            add(rest)
    except zlib.error as error:
        raise _corrupt(encoding, str(error)) from error
    if not stream.eof:
        raise _corrupt(encoding, "it ends before the compressed data does")
    return bytearray().join(pieces)


def _corrupt(encoding: str, why: str) -> MetaRMError:
    return MalformedRequestError(f"the body cannot be decompressed as {encoding}: {why}")


def _too_long(what: str, settings: ServiceSettings) -> MetaRMError:
    limit = settings.max_body_bytes
    message = f"{what}: send at most {limit} bytes (METARM_MAX_BODY_BYTES)"
    return PayloadTooLargeError(message, limit=limit, setting="METARM_MAX_BODY_BYTES")


def _quoted(sent: str) -> str:
    return repr(sent[:100])
