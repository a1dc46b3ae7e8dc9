"""The error codec: an error raised in one process can be raised again in another."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from metarm.errors import (
    ClientError,
    CutOverAbortedError,
    JobConflictError,
    MetaRMError,
    NotReadyError,
    OverloadedError,
)


def kinds(kind: type[MetaRMError] = MetaRMError) -> Iterator[type[MetaRMError]]:
    if kind.__module__ == "metarm.errors":
        yield kind
    for subclass in kind.__subclasses__():
        yield from kinds(subclass)


def sent(error: MetaRMError) -> MetaRMError:
    return MetaRMError.from_wire(orjson.loads(orjson.dumps(error.to_wire())))


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("given", [{}, {"retry_after_s": 3, "servers": {"b": "slow"}, "limit": 4}])
def test_every_error_survives_the_wire_with_its_class(kind: type[MetaRMError], given: dict[str, Any]) -> None:
    error = kind("it is so", **given)
    back = sent(error)
    assert type(back) is kind
    assert (back.code, back.message, back.details) == (error.code, error.message, error.details)
    assert (back.status, back.retry_after_s) == (error.status, error.retry_after_s)


def test_a_record_omits_the_fields_that_the_error_lacks() -> None:
    assert JobConflictError("busy").to_wire() == {"code": "job_running", "message": "busy"}
    assert NotReadyError("wait").to_wire() == {"code": "not_ready", "message": "wait", "retry_after_s": 2}
    assert CutOverAbortedError("no", servers={"b": "NaN"}).to_wire() == {
        "code": "cut_over_aborted",
        "message": "no",
        "details": {"servers": {"b": "NaN"}},
    }
    assert OverloadedError("full", retry_after_s=4, queued_tokens=9).to_wire() == {
        "code": "overloaded",
        "message": "full",
        "details": {"retry_after_s": 4, "queued_tokens": 9},
        "retry_after_s": 4,
    }


def test_details_may_be_named_like_constructor_arguments() -> None:
    record = {"code": "job_running", "message": "busy", "details": {"message": "a", "self": 1, "code": "b"}}
    assert MetaRMError.from_wire(record).details == record["details"]


NESTED: list[Any] = []
for _ in range(1000):
    NESTED = [NESTED]


def test_texts_of_another_process_are_bounded() -> None:
    error = MetaRMError.from_wire({"code": "a" * 10**6, "message": "b" * 10**6})
    assert (len(error.code), len(error.message)) == (10_000, 10_000)


def test_an_unknown_code_is_kept() -> None:
    error = MetaRMError.from_wire({"code": "from_a_newer_server", "message": "new"})
    assert type(error) is MetaRMError
    assert (error.code, error.message, error.status) == ("from_a_newer_server", "new", 500)
    assert MetaRMError("old").code == "internal_error"


@pytest.mark.parametrize(
    "record",
    [
        *(
            None,
            [],
            "text",
            7,
            NESTED,
            {"code": "a", "message": "b", "details": NESTED},
            {},
            {"code": "a"},
            {"message": "a"},
        ),
        *({"code": code, "message": "b"} for code in ("", None, 7, ["a"])),
        *({"code": "a", "message": message} for message in (None, 7, {"text": "b"})),
        *({"code": "a", "message": "b", "details": details} for details in (7, "", [], [["a", 1]], False)),
        *(
            {"code": "a", "message": "b", "retry_after_s": pause}
            for pause in ("3", -1, True, 1.5, float("nan"))
        ),
    ],
)
def test_an_invalid_error_record_is_rejected(record: Any) -> None:
    with pytest.raises(ValueError, match="not an error record"):
        MetaRMError.from_wire(record)


def test_an_error_survives_a_process_boundary() -> None:
    error = ClientError("refused", http_status=409, error_code="job_running", job="job-1")
    back = pickle.loads(pickle.dumps(error))
    assert (back.http_status, back.error_code, back.details) == (409, "job_running", {"job": "job-1"})
