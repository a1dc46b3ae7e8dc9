"""What the server answers, checked: the JSON of a success in its documented shape, else a ClientError."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

import orjson

from metarm.errors import ClientError, MetaRMError, PayloadTooLargeError
from metarm.records import ScoredGroup, ScoreResult

VERSION_NAME = re.compile(r"v[0-9]+")  # a pin of another form is a label


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON that `call` (method and path) was answered with."""

    call: str
    status: int
    body: Any


Check = Callable[[Any], bool]
Fields = Mapping[str, Check]  # the fields that the client relies on; others are passed on as they are


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def is_version(value: Any) -> bool:
    return isinstance(value, str) and VERSION_NAME.fullmatch(value) is not None


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def nullable(check: Check) -> Check:
    return lambda value: value is None or check(value)


def equal_to(expected: str) -> Check:
    return lambda value: isinstance(value, str) and value == expected


def list_of(check: Check, length: int | None = None) -> Check:
    return lambda value: (
        isinstance(value, list) and length in (None, len(value)) and all(check(one) for one in value)
    )


def has(fields: Fields) -> Check:
    return lambda value: (
        isinstance(value, dict) and all(check(value.get(name)) for name, check in fields.items())
    )


READY: Fields = {"status": is_text, "version": is_version, "degraded": nullable(list_of(is_object))}
VERSIONS: Fields = {
    "current": nullable(is_text),
    "serving": nullable(is_text),
    "versions": list_of(has({"name": is_text, "status": is_text})),
}
DRIFT: Fields = {
    "versions": list_of(has({"version": is_text})),
    "watch": has({"watching": nullable(is_object), "ended": list_of(is_object)}),
}
ACTIVATED: Fields = {"current": is_text, "serving": nullable(is_text)}
ACCEPTED_JOB: Fields = {"job": is_text, "status": nullable(is_text)}
JOB: Fields = {
    "status": is_text,
    "progress": is_object,
    "candidate": nullable(is_text),
    "verdict": nullable(is_object),
    "error": nullable(is_object),
}
LEASE: Fields = {"lease": is_text, "version": is_version, "expires": is_number}
LABEL: Fields = {"label": is_text, "version": is_version}


def read(call: str, status: int, location: str, body: bytes) -> Answer:
    """The answer of a success. Raises ClientError with the server's code, message and details.

    `location` is where a redirection leads; the client follows none.
    """
    try:
        if 200 <= status < 300:
            return Answer(call, status, orjson.loads(body))
        sent = MetaRMError.from_wire(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError) as error:  # not JSON, or no error record
        code = PayloadTooLargeError.code if status == PayloadTooLargeError.status else "unreadable_answer"
        to = f"it redirects to {_on_one_line(location)}: " if location and 300 <= status < 400 else ""
        text = (
            f"{call}: {status} {code}: {to}{_on_one_line(body[:200].decode(errors='replace')) or 'no content'}"
        )
        raise ClientError(text, http_status=status, error_code=code) from error
    refusal = ClientError(
        f"{call}: {status} {sent.code}: {sent.message}", http_status=status, error_code=sent.code
    )
    refusal.details = sent.details
    raise refusal


def checked(answer: Answer, fields: Fields) -> dict[str, Any]:
    """The answer's object. Raises ClientError `unreadable_answer` for one without these fields."""
    if not isinstance(answer.body, dict):
        raise _unreadable(answer, f"it is {shortened(answer.body)}, and no object")
    _check(answer, answer.body, fields, "")
    return answer.body


def checked_list(answer: Answer, fields: Fields) -> list[dict[str, Any]]:
    """The answer's list of objects with these fields. Raises ClientError `unreadable_answer`."""
    if not list_of(has(fields))(answer.body):
        names = ", ".join(fields)
        raise _unreadable(answer, f"it is {shortened(answer.body)}, and no list of objects with {names}")
    found: list[dict[str, Any]] = answer.body
    return found


def score_result(
    answer: Answer, ids: Sequence[str], counts: Sequence[int], *, raw: bool, pin: str | None
) -> ScoreResult:
    """The answer of POST /score for groups with these ids and numbers of responses, pinned to `pin`.

    Raises ClientError `unreadable_answer` unless it has a finite score for each response, and the groups in
    order with their ids. All groups of a pinned request must name the version at the top.
    """
    named = pin is not None and VERSION_NAME.fullmatch(pin)
    top = checked(
        answer,
        {
            "version": equal_to(pin) if named and pin else is_version,
            "groups": list_of(is_object, len(ids)),
        },
    )
    version = equal_to(top["version"]) if pin else is_version
    groups = []
    for place, (group, id_, count) in enumerate(zip(top["groups"], ids, counts, strict=True)):
        numbers = list_of(is_number, count)
        fields: dict[str, Check] = {
            "id": equal_to(id_),
            "version": version,
            "scores": numbers,
            "tokens": list_of(lambda value: type(value) is int and value >= 0, count),
            "truncated": list_of(lambda value: isinstance(value, bool), count),
            "raw": numbers if raw else nullable(numbers),
        }
        _check(answer, group, fields, f"of group {place} ")
        groups.append(_scored(group))
    return ScoreResult(top["version"], tuple(groups))


def noted(error: ClientError, note: str) -> ClientError:
    """The error with a note at the end of its message."""
    error.message = f"{error.message} ({note})"
    error.args = (error.message,)
    return error


def _scored(group: Mapping[str, Any]) -> ScoredGroup:
    raw = group.get("raw")
    return ScoredGroup(
        group["id"],
        tuple(map(float, group["scores"])),
        tuple(group["tokens"]),
        tuple(group["truncated"]),
        group["version"],
        None if raw is None else tuple(map(float, raw)),
    )


def _check(answer: Answer, found: Mapping[str, Any], fields: Fields, where: str) -> None:
    for name, is_right in fields.items():
        if not is_right(found.get(name)):
            raise _unreadable(answer, f"the field {name} {where}is {shortened(found.get(name))}")


def _unreadable(answer: Answer, why: str) -> ClientError:
    text = f"{answer.call}: {answer.status} unreadable_answer: {why}"
    return ClientError(text, http_status=answer.status, error_code="unreadable_answer")


def _on_one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[:200]).split())
