"""Bodies are parsed as orjson parses them, and refused for what they would cost before they are parsed."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarm.errors import InvalidRequestError, MalformedRequestError, MetaRMError, PayloadTooLargeError
from service.http.json_bounds import LONG, MAX_NAME, scan
from service.http.json_text import SMALL, parse
from service.settings import ServiceSettings

SETTINGS = ServiceSettings()
LARGE = b" " * SMALL  # spaces that make a body a large one
TEXTS = st.one_of(
    st.text(max_size=20),
    st.builds(
        lambda unit, times: unit * times,
        st.text('a"\\\n\u00e9\u4f60\U0001f600', max_size=6),
        st.integers(0, 99),
    ),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=50), inner, max_size=5),
    max_leaves=30,
)


def limited(**limits: int) -> ServiceSettings:
    return SETTINGS.model_copy(update=limits)


def padded(body: bytes) -> bytearray:
    """A large body of the same value: spaces between its tokens, in runs that are short enough."""
    return bytearray(b"[" + b",".join([b" " * (SMALL // 2) + b"0"] * 3) + b"," + body + b"]")


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_a_large_body_has_the_value_that_orjson_reads(value: Any, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert parse(bytearray(body), SETTINGS) == value
    assert parse(padded(body), SETTINGS) == [0, 0, 0, value]


def count(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, inner))


@given(VALUES, st.sampled_from([None, 2]))
def test_values_are_counted_exactly(value: Any, indent: int | None) -> None:
    body = bytearray(json.dumps([value], indent=indent).encode())
    scan(body, limited(max_json_values=count([value])))
    with pytest.raises(PayloadTooLargeError) as refused:
        scan(body, limited(max_json_values=count(value)))
    assert refused.value.details == {"limit": count(value), "setting": "METARM_MAX_JSON_VALUES"}


@given(st.lists(TEXTS, min_size=1), st.booleans())
def test_texts_that_are_within_the_limit_of_characters_pass(texts: list[str], ascii_only: bool) -> None:
    body = bytearray(json.dumps(texts, ensure_ascii=ascii_only).encode())
    longest, total = max(map(len, texts)), sum(map(len, texts))
    scan(body, limited(max_text_chars=max(1, longest), max_request_chars=max(1, total)))


@pytest.mark.parametrize("character", ["a", "\\n", '\\"', "\\\\", "\\u4f60", "é", "你", "😀", "\\ud83d\\ude00"])
def test_too_many_characters_are_refused_before_they_are_parsed(character: str) -> None:
    texts = ",".join(f'"{character * 10_000}"' for _ in range(20))
    body = bytearray(f"[{texts}]".encode())
    scan(body, limited(max_request_chars=200_000))
    with pytest.raises(PayloadTooLargeError) as refused:
        scan(body, limited(max_request_chars=190_000))
    assert refused.value.details == {"limit": 190_000, "setting": "METARM_MAX_REQUEST_CHARS"}


@pytest.mark.parametrize(
    ("body", "kind", "mentions"),
    [
        (b"[" * SMALL, MalformedRequestError, "1024 levels at byte 1024"),
        (b'{"a":' * SMALL, MalformedRequestError, "1024 levels"),
        (b"[" + b"1" * SMALL, MalformedRequestError, "without a string"),
        (
            b"[" + b"1" * 200 + b"," + LARGE,
            MalformedRequestError,
            "number or literal of more than 128 bytes at byte 1",
        ),
        (LARGE + b"0", MalformedRequestError, "without a string"),
        (b'{"' + b"k" * SMALL + b'": 0}', InvalidRequestError, f"the field at byte 1 has {SMALL} bytes"),
        (b'"' + b"a" * 12 * 200_001 + b'"', PayloadTooLargeError, "METARM_MAX_TEXT_CHARS"),
        (b'"' + b'\\"' * 6 * 200_001 + b'"', PayloadTooLargeError, "METARM_MAX_TEXT_CHARS"),
        (b'"' + b"\\" * SMALL, MalformedRequestError, "unexpected end"),
        (b"]" * SMALL, MalformedRequestError, "unexpected data after its end at byte 0"),
        (b"[0] " + b"[]" * SMALL, MalformedRequestError, "unexpected data after its end at byte 4"),
        (b"[" + b"[]" * SMALL, PayloadTooLargeError, "METARM_MAX_JSON_VALUES"),
        (b'{"a":' + b'""' * 2 * SMALL, PayloadTooLargeError, "METARM_MAX_JSON_VALUES"),
        (b'""' * 2 * SMALL, PayloadTooLargeError, "METARM_MAX_JSON_VALUES"),
        (b"[" + b'{"a":{}}' * SMALL, PayloadTooLargeError, "METARM_MAX_JSON_VALUES"),
        (
            b"[" + b",".join([b'"' + b"a" * LONG + b'"' + b" " * 300] * 30_000) + b"]",
            MalformedRequestError,
            "bytes of spaces, numbers and literals",
        ),
    ],
)
def test_a_hostile_body_is_refused_with_its_cause(body: bytes, kind: type[MetaRMError], mentions: str) -> None:
    with pytest.raises(kind, match=mentions):
        parse(bytearray(body), SETTINGS)


@pytest.mark.parametrize("body", [b"]", b"[" + b"[]", b'{"a":' + b'""', b'""', b"[" + b"]["])
def test_a_scan_ends_at_its_bounds_also_without_commas(body: bytes) -> None:
    """The body ends in a string that is too long: the scan does not come to it."""
    hostile = body[:-2] + body[-2:] * 10_000 + b'"' + b"a" * 12 * 200_001 + b'"'
    with pytest.raises(MetaRMError) as refused:
        scan(bytearray(hostile), limited(max_json_values=1000))
    assert refused.value.details.get("setting") != "METARM_MAX_TEXT_CHARS"


@pytest.mark.parametrize("value", [b'{"a":{}}', b'{"a":[{"b":"c"}]}', b"[[[]]]", b'{"":"","b":""}'])
@pytest.mark.parametrize("space", [b"", b" \n"])
def test_the_bound_of_tokens_is_above_that_of_values(value: bytes, space: bytes) -> None:
    one = value if not space else re.sub(rb"([\[\]{},:])", rb"\1 \n", value)
    body = b"[" + b",".join([one] * 100) + b"]" + space * 1000
    scan(bytearray(body), limited(max_json_values=count(json.loads(body))))


def test_an_unknown_field_of_a_long_name_is_left_to_the_validation() -> None:
    name = "k" * (MAX_NAME - 1)
    assert name in parse(bytearray(b'{"%s":["%s"]}' % (name.encode(), b"a" * SMALL)), SETTINGS)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (b'"\\ud800"', "a lone surrogate"),
        (b'"%s\\ud800"' % (b"a" * LONG), "a lone surrogate"),
        (b'"%s\xff"' % (b"a" * LONG), "not valid UTF-8"),
        (b'"\xff"', "not valid UTF-8"),
        (b"NaN", "NaN and Infinity are no JSON numbers"),
        (b'"%s"x' % (b"a" * LONG), "unexpected character"),
    ],
)
def test_the_place_of_a_fault_is_the_same_in_a_large_body(fault: bytes, cause: str) -> None:
    before = orjson.dumps(["é" * LONG, "b" * LONG, "c"])[:-1] + b","
    places = []
    for body in (before + fault + b"]", before + fault + b',"%s"]' % (b"d" * SMALL)):
        with pytest.raises(MalformedRequestError, match=cause) as refused:
            parse(bytearray(body), SETTINGS)
        places.append(refused.value.details["byte"])
    assert places[0] == places[1] >= len(before)
