"""JSON of a body → Python values, or the cause and place of what is not JSON.

orjson holds the GIL for all of its work. The strings of a large body are therefore parsed apart, a few at a
time, so that a thread that parses 32 MB lets other threads run every few milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson

from metarm.errors import MalformedRequestError, MetaRMError
from service.http.json_bounds import LONG, PIECE, Span, scan
from service.settings import ServiceSettings

SMALL = 2**18  # bytes that are parsed at once
MANY = 2**14  # commas, opening brackets and quotes: what they enclose takes some milliseconds
NOT_JSON = re.compile(r"-?(?:NaN|Infinity)")


def is_small(body: bytearray) -> bool:
    """Whether parsing and validating it takes some milliseconds at most."""
    return len(body) < SMALL and sum(map(body.count, b',[{"')) < MANY


def parse(body: bytearray, settings: ServiceSettings) -> Any:
    """The value of a JSON text. Raises MalformedRequestError, PayloadTooLargeError, InvalidRequestError."""
    if len(body) < SMALL and len(body) < 2 * settings.max_json_values:  # [0,0] has 5 bytes and 3 values
        return _loads(body)
    long = scan(body, settings)
    if len(body) < SMALL:
        return _loads(body)
    texts: list[str] = []
    first = length = 0
    for number, (start, end) in enumerate(long, 1):
        length += end - start
        if length > PIECE or number == len(long):
            texts += _texts(body, long[first:number])
            first, length = number, 0
    return _with_texts(_loads(_without_texts(body, long), partial(_place, long)), texts)


def _texts(body: bytearray, spans: Sequence[Span]) -> list[str]:
    """The strings at `spans`."""
    try:
        texts: list[str] = orjson.loads(b"[" + b",".join([body[start:end] for start, end in spans]) + b"]")
    except orjson.JSONDecodeError:
        for start, end in spans:
            _loads(body[start:end], start.__add__)
        raise
    return texts


def _without_texts(body: bytearray, long: Sequence[Span]) -> bytearray:
    """The body with the number of each long string in its place: no other string is that long."""
    rest = bytearray()
    place = 0
    for number, (start, end) in enumerate(long):
        rest += body[place:start]
        rest += b'"%0*d"' % (LONG, number)
        place = end
    return rest + body[place:]


def _place(long: Sequence[Span], byte: int) -> int:
    """The place in the body of a byte of `_without_texts`."""
    for start, end in long:
        if byte <= start:
            break
        byte += end - start - LONG - 2
    return byte


def _with_texts(value: Any, texts: Sequence[str]) -> Any:
    """The inverse of `_without_texts`, on the parsed value."""
    root = [value]
    waiting: list[Any] = [root]
    while waiting:
        here = waiting.pop()
        for key, each in here.items() if isinstance(here, dict) else enumerate(here):
            if isinstance(each, list | dict):
                waiting.append(each)
            elif isinstance(each, str) and len(each) >= LONG:
                here[key] = texts[int(each)]
    return root[0]


def _loads(body: bytearray, at: Callable[[int], int] | None = None) -> Any:
    """`at` gives the place of a byte in the request's body, if `body` is only a part of it."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "UTF-8" in error.msg and not error.doc:
            raise _undecodable(body, at) from error
        cause = error.msg
        if any(NOT_JSON.match(error.doc, place) for place in range(max(0, error.pos - 2), error.pos + 1)):
            cause = "NaN and Infinity are no JSON numbers"
        elif "surrogate" in cause:
            cause = f"a lone surrogate ({cause})"
        byte = len(error.doc[: error.pos].encode())
        place = f"byte {at(byte)}" if at else f"byte {byte} (line {error.lineno} column {error.colno})"
        message = f"the body is not valid JSON: {cause} at {place}"
        raise MalformedRequestError(message, byte=at(byte) if at else byte) from error


def _undecodable(body: bytearray, at: Callable[[int], int] | None) -> MetaRMError:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        byte = at(error.start) if at else error.start
        return MalformedRequestError(f"the body is not valid UTF-8: {error.reason} at byte {byte}", byte=byte)
    return MalformedRequestError("the body is not valid UTF-8")
