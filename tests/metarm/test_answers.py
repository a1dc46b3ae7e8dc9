"""RewardClient against servers and proxies that answer wrongly."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from metarm import ClientError, RewardClient
from metarm.calls import MAX_ANSWER_BYTES
from tests.scripted_http import ALL, Answer, Clock, answering, error

GROUPS = [{"prompt": "One?", "responses": ["Yes.", "No."]}, {"id": "b", "prompt": "Two?", "responses": ["2"]}]
ONE = {"id": "0", "version": "v000003", "scores": [0.5, -1], "tokens": [4, 5], "truncated": [False, True]}
OTHER = {"id": "b", "version": "v000004", "scores": [0.1], "tokens": [4], "truncated": [False]}
RIGHT: dict[str, Any] = {"version": "v000003", "groups": [ONE, OTHER]}
LEASE: dict[str, Any] = {"lease": "lease-1", "version": "v000002", "expires": 100.0}
JOB: dict[str, Any] = {"job": "job-1", "status": "running", "progress": {}}

CALLS: dict[str, Callable[[RewardClient], object]] = {
    **ALL,
    "score": lambda client: client.score(GROUPS),
    "wait_for_job": lambda client: client.wait_for_job("job-1"),
}
FOREIGN = {
    "html": Answer(200, b"<html>Please log in</html>"),
    "empty": Answer(200, b""),
    "no content": Answer(204, b""),
    "null": Answer(200, None),
    "a number": Answer(200, 7),
    "a text": Answer(200, "fine"),
    "a list of nulls": Answer(200, [None]),
    "another object": Answer(200, {"status": True}),
    "a list of other objects": Answer(200, [{"status": 1}]),
    "deep": Answer(200, b"[" * 100_000),
    "no UTF-8": Answer(200, b'{"version": "\xff"}'),
    "UTF-16": Answer(
        200, json.dumps(RIGHT).encode("utf-16"), {"content-type": "application/json; charset=utf-16"}
    ),
    "no gzip": Answer(200, b"not gzip", {"content-encoding": "gzip"}),
    "half of a gzip": Answer(200, gzip.compress(json.dumps(RIGHT).encode())[:40], {"content-encoding": "gzip"}),
    "a redirection": Answer(307, b"", {"location": "https://elsewhere.example/"}),
    "an unknown status": Answer(299, b"?"),
}


@pytest.mark.parametrize("answer", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_no_call_takes_an_answer_of_another_shape(
    call: Callable[[RewardClient], object], answer: Answer
) -> None:
    with (
        answering(answer) as server,
        RewardClient(server.url, clock=Clock()) as client,
        pytest.raises(ClientError) as raised,
    ):
        call(client)
    assert raised.value.error_code == "unreadable_answer"
    assert len(server.received) == 1  # the next answer would be no better


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


def one(**changed: Any) -> dict[str, Any]:
    return {**RIGHT, "groups": [{**ONE, **changed}, OTHER]}


WRONG_SCORES: dict[str, Any] = {
    "NaN": b'{"version":"v000003","groups":[{"id":"0","scores":[NaN,NaN]}]}',
    "infinity": json.dumps(one()).replace("-1", "-1e999").encode(),
    "null": one(scores=[None, 0.5]),
    "a text": one(scores=["0.5", "0.5"]),
    "a bool": one(scores=[True, False]),
    "no list": one(scores=0.5),
    "scores by place": one(scores={"0": 0.5, "1": 0.5}),
    "no scores": one(scores=[]),
    "too few scores": one(scores=[0.5]),
    "too many scores": one(scores=[0.5, 0.5, 0.5]),
    "missing scores": {**RIGHT, "groups": [without(ONE, "scores"), OTHER]},
    "too few tokens": one(tokens=[4]),
    "no whole tokens": one(tokens=[4.5, 4]),
    "negative tokens": one(tokens=[-1, 4]),
    "true tokens": one(tokens=[True, 4]),
    "missing tokens": {**RIGHT, "groups": [without(ONE, "tokens"), OTHER]},
    "truncated by number": one(truncated=[0, 1]),
    "too few truncated": one(truncated=[True]),
    "raw of another length": one(raw=[0.5]),
    "another id": one(id="1"),
    "an id that is a number": one(id=0),
    "no id": {**RIGHT, "groups": [without(ONE, "id"), OTHER]},
    "no version of a group": {**RIGHT, "groups": [without(ONE, "version"), OTHER]},
    "an empty version of a group": one(version=""),
    "a version that is a number": {**RIGHT, "version": 3},
    "an empty version": {**RIGHT, "version": ""},
    "a label as version": {**RIGHT, "version": "stable"},
    "a version of two lines": {**RIGHT, "version": "v1\nx"},
    "a version with a line end": {**RIGHT, "version": "v000003\n"},
    "a label as version of a group": one(version="stable"),
    "no version": without(RIGHT, "version"),
    "no groups": {**RIGHT, "groups": []},
    "too few groups": {**RIGHT, "groups": [ONE]},
    "too many groups": {**RIGHT, "groups": [ONE, OTHER, OTHER]},
    "another order": {**RIGHT, "groups": [OTHER, ONE]},
    "groups by id": {**RIGHT, "groups": {"0": ONE, "b": OTHER}},
    "groups that are lists": {**RIGHT, "groups": [[], []]},
}


@pytest.mark.parametrize("body", WRONG_SCORES.values(), ids=WRONG_SCORES.keys())
def test_scores_that_do_not_fit_the_request_are_refused(body: Any) -> None:
    with (
        answering(Answer(200, body)) as server,
        RewardClient(server.url, clock=Clock()) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score(GROUPS)
    assert (raised.value.error_code, raised.value.http_status) == ("unreadable_answer", 200)
    assert len(server.received) == 1


def test_whole_numbers_are_scores_and_a_canary_names_its_groups() -> None:
    with answering(Answer(200, RIGHT)) as server, RewardClient(server.url) as client:
        result = client.score(GROUPS)
    assert [group.scores for group in result.groups] == [(0.5, -1.0), (0.1,)]
    assert all(isinstance(score, float) for group in result.groups for score in group.scores)
    assert (result.version, [group.version for group in result.groups]) == ("v000003", ["v000003", "v000004"])


def test_raw_rewards_that_were_requested_must_be_there() -> None:
    with (
        answering(Answer(200, RIGHT)) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError, match="raw of group 0") as raised,
    ):
        client.score(GROUPS, raw=True)
    assert raised.value.error_code == "unreadable_answer"


@pytest.mark.parametrize("pin", ["v000002", "stable"])
def test_a_pinned_request_takes_the_scores_of_no_other_version(pin: str) -> None:
    """v000002: another version scored everything; stable: two versions scored it."""
    with (
        answering(Answer(200, RIGHT)) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score(GROUPS, version=pin)
    assert raised.value.error_code == "unreadable_answer"


WRONG_FIELDS: list[tuple[str, Any]] = [
    ("lease", {**LEASE, "lease": 1}),
    ("lease", {**LEASE, "version": "v000009"}),
    ("lease", {**LEASE, "expires": "soon"}),
    ("lease", {**LEASE, "expires": True}),
    ("renew", {**LEASE, "lease": "another"}),
    ("renew", without(LEASE, "expires")),
    ("release", {"lease": "another"}),
    ("leases", [LEASE, {**LEASE, "version": None}]),
    ("leases", {"leases": []}),
    ("labels", [{"label": "stable", "version": 2}]),
    ("set_label", {"label": "stable", "version": "v000001"}),
    ("remove_label", {"label": None}),
    ("ready", {"status": "ready", "version": "", "degraded": []}),
    ("ready", {"status": "ready", "version": "v000001", "degraded": ["redis"]}),
    ("versions", {"current": 1, "serving": None, "versions": []}),
    ("versions", {"current": None, "serving": None, "versions": ["v000001"]}),
    ("drift", {"versions": [], "watch": {"watching": None, "ended": None}}),
    ("activate", {"current": ["v000001"], "serving": "v000001"}),
    ("retrain", {"job": "", "status": "queued"}),
    ("retrain", {"job": "job-1", "status": 3}),
    ("job", {**JOB, "job": "job-2"}),
    ("job", {**JOB, "progress": None}),
    ("cancel", {**JOB, "error": "failed"}),
    ("wait_for_job", {**JOB, "status": 3}),
    ("wait_for_job", {**JOB, "status": ["published"]}),
]


@pytest.mark.parametrize(("name", "body"), WRONG_FIELDS, ids=str)
def test_an_answer_with_a_field_of_another_type_is_refused(name: str, body: Any) -> None:
    with (
        answering(Answer(200, body)) as server,
        RewardClient(server.url, clock=Clock()) as client,
        pytest.raises(ClientError) as raised,
    ):
        CALLS[name](client)
    assert raised.value.error_code == "unreadable_answer"


@pytest.mark.parametrize(
    "record",
    [
        {"code": 7, "message": "a"},
        {"code": "", "message": "a"},
        {"code": "a", "message": None},
        {"code": "a", "message": "b", "details": [1]},
        {"code": "a", "message": "b", "details": "c"},
        {"code": "a", "message": "b", "retry_after_s": "soon"},
        {"code": "a", "message": "b", "retry_after_s": True},
        {"code": "a", "message": "b", "retry_after_s": -1},
    ],
    ids=str,
)
def test_an_error_record_with_wrong_types_is_unreadable(record: Any) -> None:
    with (
        answering(Answer(422, {"error": record})) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.ready()
    assert (raised.value.http_status, raised.value.error_code) == (422, "unreadable_answer")
    assert raised.value.details == {}


def test_an_error_names_where_a_redirection_leads_and_fits_on_a_line() -> None:
    redirection = Answer(302, b"<html>\r\n\x1b[31mmoved", {"location": "https://elsewhere.example/login"})
    with (
        answering(redirection) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError, match=r"redirects to https://elsewhere\.example/login") as raised,
    ):
        client.ready()
    assert raised.value.message.isprintable()


def test_an_answer_of_unlimited_size_is_refused() -> None:
    with (
        answering(Answer(200, b" " * (MAX_ANSWER_BYTES + 1))) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError, match=f"exceeds {MAX_ANSWER_BYTES} bytes") as raised,
    ):
        client.ready()
    assert raised.value.error_code == "unreadable_answer"
    assert len(server.received) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "br", "identity, gzip"])
def test_an_encoded_answer_is_refused_and_not_decoded(encoding: str) -> None:
    ready = json.dumps({"status": "ready", "version": "v000001", "degraded": []}).encode()
    with (
        answering(Answer(200, ready, {"content-encoding": encoding})) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError, match=f"Content-Encoding {encoding}") as raised,
    ):
        client.ready()
    assert (raised.value.http_status, raised.value.error_code) == (200, "unreadable_answer")
    assert server.received[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_an_answer_may_say_that_it_is_not_encoded(encoding: str) -> None:
    ready = Answer(200, {"status": "ready", "version": "v000001"}, {"content-encoding": encoding})
    with answering(ready) as server, RewardClient(server.url) as client:
        assert client.ready()["version"] == "v000001"


def test_an_encoded_refusal_keeps_its_status_and_is_asked_for_again() -> None:
    busy = Answer(503, gzip.compress(b"busy"), {"content-encoding": "gzip"})
    with (
        answering(busy) as server,
        RewardClient(server.url, retries=1, clock=Clock()) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.ready()
    assert (raised.value.http_status, len(server.received)) == (503, 2)


def test_a_refusal_without_a_body_has_its_status_and_a_code() -> None:
    for status, code in ((401, "unreadable_answer"), (413, "payload_too_large"), (500, "unreadable_answer")):
        with (
            answering(Answer(status, b"")) as server,
            RewardClient(server.url) as client,
            pytest.raises(ClientError, match="no content") as raised,
        ):
            client.score(GROUPS[1:])
        assert (raised.value.http_status, raised.value.error_code) == (status, code)


def test_the_details_of_a_refusal_may_hold_anything() -> None:
    with (
        answering(error(409, "job_running", "busy", {"self": 1, "message": [None], "setting": {}})) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.retrain()
    assert raised.value.details == {"self": 1, "message": [None], "setting": {}}
