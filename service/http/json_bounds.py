"""What parsing and validating a JSON text would cost, counted in its bytes before either begins.

The scan runs in short steps and ends at the first bound that is passed, so that a thread that scans lets other
threads run.
"""

from __future__ import annotations

import re

from metarm.errors import InvalidRequestError, MalformedRequestError, PayloadTooLargeError
from service.settings import ServiceSettings

MAX_DEPTH = 1024  # of orjson
MAX_NUMBER = 128  # bytes of a number or literal
MAX_NAME = 1000  # bytes of the name of a field, and more than any other name has characters
LONG = 128  # bytes from which on a string is a long one
TOKENS_PER_VALUE = 4  # at most: {"a":{}, has a name, two brackets and a comma for a value
BETWEEN_PER_VALUE = 32  # bytes of spaces, numbers, literals and colons, for each value that the limit allows
MORE_BETWEEN = 2**20  # of them in any body
STEP = 2**18  # bytes that one call of a regular expression reads, and the most between two tokens
PIECE = 2**20  # bytes whose characters are counted together
BYTES_OF_A_CHARACTER = 12  # at most: two escaped surrogates
NAMES_PER_VALUE = 64  # characters of names and ids, which are no texts, for each value of a valid body
TOKEN = re.compile(rb'["\[\]{},](?:(?<=")[^"\\]{0,100}+")?')  # a string that is short and simple: all of it
IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
NAMES_A_FIELD = re.compile(rb"[ \t\n\r]*+:")  # after a string
NO_SPACE = re.compile(rb"[^ \t\n\r]")
QUOTE, BACKSLASH, COMMA = b'"\\,'
OPENING = b"[{"
CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes of a UTF-8 character after its first

Span = tuple[int, int]


def scan(body: bytearray, settings: ServiceSettings) -> list[Span]:
    """Where the long strings are, with their quotes, in order, apart from the names of fields. Whether the body
    is JSON is left to its parser.

    Raises PayloadTooLargeError, MalformedRequestError, InvalidRequestError.
    """
    strings = _Strings(settings)
    values, depth, opened = 1, 0, -1  # opened: the place after the last token if it opened a list or object
    most = settings.max_json_values
    tokens_left, between_left = TOKENS_PER_VALUE * (most + 1), BETWEEN_PER_VALUE * most + MORE_BETWEEN
    place, size = 0, len(body)
    while place < size:
        token = TOKEN.search(body, place, place + STEP)
        start = token.start() if token else min(place + STEP, size)
        if start - place > MAX_NUMBER:
            _check_between(body, place, start)
        between_left -= start - place
        if between_left < 0:
            limit = BETWEEN_PER_VALUE * most + MORE_BETWEEN
            message = f"the body has more than {limit} bytes of spaces, numbers and literals at byte {start}"
            raise MalformedRequestError(message, byte=start, limit=limit)
        if token is None:
            break
        tokens_left -= 1
        place = token.end()
        kind = body[start]
        if kind == QUOTE:
            if place == start + 1:
                place = strings.add(body, start)
            else:
                strings.bytes += place - start - 2
            if place - strings.counted > PIECE:
                strings.count_characters(body, min(place, size), values)
        elif kind == COMMA:
            values += 1
        elif kind in OPENING:
            values, depth, opened = values + 1, depth + 1, place
            if depth > MAX_DEPTH:
                message = f"the body is nested deeper than {MAX_DEPTH} levels at byte {start}"
                raise MalformedRequestError(message, byte=start, limit=MAX_DEPTH)
            continue
        else:
            depth -= 1
            if depth <= 0:
                _check_end(body, start if depth < 0 else place)
            if opened >= 0 and not body[opened:start].strip():
                values -= 1  # it is empty
        opened = -1
        if values > most or tokens_left < 0:
            what = "too many JSON values in one body"
            raise PayloadTooLargeError.over(most, "METARM_MAX_JSON_VALUES", what)
    strings.count_characters(body, size, values)
    return strings.long


class _Strings:
    """The strings so far."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.long: list[Span] = []
        self._max_text_chars = settings.max_text_chars
        self._max_chars = settings.max_request_chars
        self.counted = 0  # the place up to which characters are counted
        self.bytes = 0  # of the strings since then
        self._characters = 0  # at least

    def add(self, body: bytearray, start: int) -> int:
        """Add the string that starts at `start`; returns the place after it."""
        longest = BYTES_OF_A_CHARACTER * max(self._max_text_chars, MAX_NAME)
        end = _end_of_string(body, start + 1, longest)
        if end - start - 1 > longest:
            what = f"the string at byte {start} is too long"
            raise PayloadTooLargeError.over(self._max_text_chars, "METARM_MAX_TEXT_CHARS", what)
        self.bytes += end - start - 1
        if end - start > LONG and end < len(body):
            if not NAMES_A_FIELD.match(body, end + 1):
                self.long.append((start, end + 1))
            elif end - start > MAX_NAME:
                message = f"the name of the field at byte {start} has {end - start - 1} bytes"
                raise InvalidRequestError(message, byte=start, limit=MAX_NAME)
        return end + 1

    def count_characters(self, body: bytearray, end: int, values: int) -> None:
        """Count up to `end`, which is outside any string, after `values` values."""
        piece = body[self.counted : end]
        self._characters += _fewest_characters(piece) - (len(piece) - self.bytes)
        self.counted, self.bytes = end, 0
        if self._characters > self._max_chars + NAMES_PER_VALUE * values:
            what = "too many characters in one request"
            raise PayloadTooLargeError.over(self._max_chars, "METARM_MAX_REQUEST_CHARS", what)


def _check_between(body: bytearray, start: int, end: int) -> None:
    """Of what is between two tokens, spaces may be longer than a number. Raises MalformedRequestError."""
    if end - start >= STEP:
        message = f"the body has {STEP} bytes without a string, a comma or a bracket from byte {start} on"
        raise MalformedRequestError(message, byte=start, limit=STEP)
    if len(body[start:end].strip()) > MAX_NUMBER:
        message = f"the body has a number or literal of more than {MAX_NUMBER} bytes at byte {start}"
        raise MalformedRequestError(message, byte=start, limit=MAX_NUMBER)


def _check_end(body: bytearray, place: int) -> None:
    """The value of the body ends before `place`. Raises MalformedRequestError if anything follows."""
    if more := NO_SPACE.search(body, place, place + STEP):
        message = f"the body is not valid JSON: unexpected data after its end at byte {more.start()}"
        raise MalformedRequestError(message, byte=more.start())


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
