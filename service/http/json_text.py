"""JSON within bounds: what parsing and validation would cost is counted in the bytes before either begins.

orjson and pydantic hold the GIL for their whole work, so other requests would wait for a body of millions of
values. The check runs in short steps, and ends at the first bound that is passed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from metarm.errors import MalformedRequestError, MetaRMError, PayloadTooLargeError
from service.settings import ServiceSettings

MAX_DEPTH = 1024  # of orjson
STEP = 2**18  # bytes that one call of the regular expressions reads, and the most between two tokens
PIECE = 2**20  # bytes whose characters are counted together
MOST_BYTES_OF_A_CHARACTER = 12  # two escaped surrogates
NAMES_CHARS_PER_VALUE = 64  # characters of names and ids, which are no texts, for each value of a valid body
TOKEN = re.compile(rb'["\[\]{},]')
IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
QUOTE, BACKSLASH, COMMA = b'"\\,'
OPENING = b"[{"
CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes of a UTF-8 character after its first
NOT_JSON = re.compile(r"-?(?:NaN|Infinity)")


def parse(body: bytearray, settings: ServiceSettings) -> Any:
    """The value of a JSON text. Raises MalformedRequestError, PayloadTooLargeError."""
    if len(body) + 1 > 2 * settings.max_json_values or len(body) > STEP:  # [0,0] has 5 bytes and 3 values
        _check(body, settings)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed(body, error) from error


@dataclass(slots=True)
class _Characters:
    """A lower bound of the characters of all strings so far."""

    limit: int
    counted: int = 0
    since: int = 0  # the place up to which they are counted
    string_bytes: int = 0  # of the strings since then

    def count(self, body: bytearray, end: int, values: int) -> None:
        """Count up to `end`, which is outside any string. Raises PayloadTooLargeError."""
        piece = body[self.since : end]
        self.counted += _fewest_characters(piece) - (len(piece) - self.string_bytes)
        self.since, self.string_bytes = end, 0
        if self.counted > self.limit + NAMES_CHARS_PER_VALUE * values:
            what = "too many characters in one request"
            raise PayloadTooLargeError.over(self.limit, "METARM_MAX_REQUEST_CHARS", what)


def _check(body: bytearray, settings: ServiceSettings) -> None:
    """Bound the values, the depth, the longest string and the characters of all strings."""
    longest = MOST_BYTES_OF_A_CHARACTER * settings.max_text_chars
    characters = _Characters(settings.max_request_chars)
    values, depth, opened = 1, 0, -1  # opened: the place after the last token if it opened a list or object
    place, size = 0, len(body)
    while place < size:
        found = TOKEN.search(body, place, place + STEP)
        if found is None:
            if place + STEP < size:
                message = f"the body has {STEP} bytes without a string, a comma or a bracket at byte {place}"
                raise MalformedRequestError(message, byte=place, limit=STEP)
            break
        start, place = found.start(), found.end()
        token = body[start]
        if token == QUOTE:
            end = _end_of_string(body, place, longest)
            if end - place > longest:
                what = f"the string at byte {start} is too long"
                raise PayloadTooLargeError.over(settings.max_text_chars, "METARM_MAX_TEXT_CHARS", what)
            characters.string_bytes += end - place
            place = end + 1
            if place - characters.since > PIECE:
                characters.count(body, min(place, size), values)
        elif token == COMMA:
            values += 1
        elif token in OPENING:
            values, depth, opened = values + 1, depth + 1, place
            if depth > MAX_DEPTH:
                message = f"the body is nested deeper than {MAX_DEPTH} levels at byte {start}"
                raise MalformedRequestError(message, byte=start, limit=MAX_DEPTH)
            continue
        else:
            depth -= 1
            if opened >= 0 and not body[opened:start].strip():
                values -= 1  # it is empty
        opened = -1
        if values > settings.max_json_values:
            what = "too many JSON values in one body"
            raise PayloadTooLargeError.over(settings.max_json_values, "METARM_MAX_JSON_VALUES", what)
    characters.count(body, size, values)


def _end_of_string(body: bytearray, start: int, longest: int) -> int:
    """The place of the closing quote; the end of the body without one; a place beyond `longest` bytes for a
    string that may be longer."""
    end = body.find(QUOTE, start)
    if end < 0:
        return len(body)
    if body[end - 1] != BACKSLASH:
        return end
    place = start
    while place - start <= longest:  # in steps: one call holds the GIL
        found = IN_STRING.match(body, place, place + STEP)
        end = found.end() if found else place
        if end >= len(body) or body[end] == QUOTE:
            return end
        if end == place:  # a backslash ends the body
            return len(body)
        place = end
    return place


def _fewest_characters(piece: bytearray) -> int:
    """A lower bound of the characters that the bytes decode to. No escape is cut off at either end."""
    characters = len(piece) if piece.isascii() else len(piece.translate(None, CONTINUATION))
    backslashes = piece.count(BACKSLASH)
    if not backslashes:
        return characters
    escapes = backslashes - piece.count(b"\\\\")  # in a run of backslashes, each pair is one escape
    unicode = 0
    for length in range(1, 10):  # an odd run before u is an escape \uXXXX: runs of 1 or more, less 2 or more, …
        runs = piece.count(b"\\" * length + b"u")
        if not runs:
            break
        unicode += runs if length % 2 else -runs
    surrogates = piece.count(b"\\ud") + piece.count(b"\\uD")  # at most; two are one character
    return characters - escapes - 4 * unicode - (surrogates + 1) // 2


def _malformed(body: bytearray, error: orjson.JSONDecodeError) -> MetaRMError:
    """The cause and the place of what is not JSON."""
    if "UTF-8" in error.msg and not error.doc:
        return _undecodable(body)
    cause, character = error.msg, error.pos
    if any(NOT_JSON.match(error.doc, at) for at in range(max(0, character - 2), character + 1)):
        cause = "NaN and Infinity are no JSON numbers"
    elif "surrogate" in cause:
        cause = f"a lone surrogate ({cause})"
    where = f"line {error.lineno} column {error.colno} (character {character})"
    return MalformedRequestError(
        f"the body is not valid JSON: {cause}: {where}",
        line=error.lineno,
        column=error.colno,
        character=character,
    )


def _undecodable(body: bytearray) -> MetaRMError:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        message = f"the body is not valid UTF-8: {error.reason} at byte {error.start}"
        return MalformedRequestError(message, byte=error.start)
    return MalformedRequestError("the body is not valid UTF-8")
