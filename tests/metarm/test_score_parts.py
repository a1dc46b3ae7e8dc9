"""Requests that the server takes in parts only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from metarm import ClientError, RewardClient, ScoreResult
from metarm.shared.keys import SAMPLES
from metarm.shared.sample_log import SampleLog
from tests.offline import TOLERANCE
from tests.processes import HttpThread, RedisProcess, service_here
from tests.scripted_http import Answer, Clock, Received, answering, error
from tests.store import publish_several

TOO_LARGE = "METARM_MAX_RESPONSES"


def numbered(groups: int, responses: int) -> list[dict[str, Any]]:
    """Groups whose responses are numbers, which `Limited` returns as their scores."""
    return [
        {"prompt": f"{g}?", "responses": [str(g * responses + r) for r in range(responses)]}
        for g in range(groups)
    ]


def scores(result: ScoreResult) -> list[tuple[float, ...]]:
    return [group.scores for group in result.groups]


def expected(groups: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    return [tuple(map(float, group["responses"])) for group in groups]


class Limited:
    """Scores like a server that takes at most `most` responses in a request. `current` is the version of the
    requests that pin none; `canary` scores the prompts in `takes`; `on_score` runs before each answer."""

    def __init__(self, most: int, refusal: Callable[[int], Answer] | None = None) -> None:
        self.most = most
        self.refusal = refusal or (
            lambda most: error(413, "payload_too_large", "too many", {"limit": most, "setting": TOO_LARGE})
        )
        self.current = "v000001"
        self.unavailable: set[str] = set()
        self.canary, self.takes = "v000009", set[str]()
        self.on_score: Callable[[int], object] = lambda _count: None
        self.scored: list[dict[str, Any]] = []

    def __call__(self, received: Received) -> Answer:
        body = received.body
        if sum(len(group["responses"]) for group in body["groups"]) > self.most:
            return self.refusal(self.most)
        self.on_score(len(self.scored))
        version = {"stable": self.current}.get(body.get("version", "stable")) or body["version"]
        if version in self.unavailable:
            return error(409, "version_unavailable", f"{version} is gone")
        self.scored.append(body)
        groups = []
        for place, group in enumerate(body["groups"]):
            takes = "version" not in body and group["prompt"] in self.takes
            texts = group["responses"]
            groups.append(
                {
                    "id": group.get("id", str(place)),
                    "version": self.canary if takes else version,
                    "scores": [float(text) for text in texts],
                    "tokens": [len(text) for text in texts],
                    "truncated": [False] * len(texts),
                    **({"raw": [-float(text) for text in texts]} if body.get("raw") else {}),
                }
            )
        return Answer(200, {"version": version, "groups": groups})

    def sizes(self) -> list[int]:
        return [sum(len(group["responses"]) for group in body["groups"]) for body in self.scored]


BARE = lambda _most: Answer(413, b"<html>Request Entity Too Large</html>")  # noqa: E731
OTHER_LIMIT = lambda _most: error(  # noqa: E731
    413, "payload_too_large", "too many", {"limit": 9, "setting": "METARM_MAX_BODY_BYTES"}
)


@pytest.mark.parametrize("refusal", [None, BARE, OTHER_LIMIT], ids=["named", "bare", "another limit"])
@pytest.mark.parametrize(("groups", "responses"), [(1, 1), (7, 3), (16, 4), (33, 1), (3, 40), (2, 11)])
def test_the_parts_of_a_large_request_give_the_scores_of_one(
    groups: int, responses: int, refusal: Callable[[int], Answer] | None
) -> None:
    limited, sent = Limited(8, refusal), numbered(groups, responses)
    with answering(by=limited) as server, RewardClient(server.url) as client:
        result = client.score(sent, raw=True)
    assert scores(result) == expected(sent)
    assert [group.raw for group in result.groups] == [
        tuple(-s for s in group.scores) for group in result.groups
    ]
    assert [len(group.tokens) for group in result.groups] == [responses] * groups
    assert [group.id for group in result.groups] == [str(place) for place in range(groups)]
    assert {result.version, *(group.version for group in result.groups)} == {"v000001"}
    assert sum(limited.sizes()) == groups * responses


def test_a_group_is_divided_only_if_it_is_too_large_alone() -> None:
    limited = Limited(8)
    sent = [*numbered(3, 5), *numbered(1, 20)]
    with answering(by=limited) as server, RewardClient(server.url) as client:
        result = client.score(sent)
    assert scores(result) == expected(sent)
    assert limited.sizes() == [5, 5, 5, 5, 5, 5, 5]
    assert [[group["id"] for group in body["groups"]] for body in limited.scored] == [
        *(["0"], ["1"], ["2"]),
        *[["3"]] * 4,
    ]


def test_ids_of_the_caller_are_kept_and_the_others_are_indices_in_the_whole_request() -> None:
    limited, sent = Limited(4), numbered(6, 2)
    sent[1]["id"], sent[4]["id"] = "mine", "yours"
    with answering(by=limited) as server, RewardClient(server.url) as client:
        result = client.score(sent)
    assert [group.id for group in result.groups] == ["0", "mine", "2", "3", "yours", "5"]


def test_parts_have_the_same_request_ids_in_every_repetition_and_no_two_the_same() -> None:
    ids = []
    for request_id in ("mine", "mine", "x" * 200, "x" * 200, "y" * 199):
        limited = Limited(4)
        with answering(by=limited) as server, RewardClient(server.url) as client:
            client.score([*numbered(5, 2), *numbered(1, 9)], request_id=request_id)
        ids.append([body["request_id"] for body in limited.scored])
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert all(len(set(some)) == len(some) for some in ids)
    assert not set(ids[2]) & set(ids[4])
    assert all(id_.startswith("mine.") for id_ in ids[0])
    assert max(len(id_) for some in ids for id_ in some) <= 200


def test_a_request_that_fits_is_sent_as_it_is() -> None:
    limited, sent = Limited(8), numbered(2, 4)
    with answering(by=limited) as server, RewardClient(server.url) as client:
        client.score(sent, request_id="mine")
    (body,) = limited.scored
    assert (body["groups"], body["request_id"]) == (sent, "mine")


@pytest.mark.parametrize("refusal", [None, BARE], ids=["named", "bare"])
def test_a_size_that_was_refused_is_not_sent_again(refusal: Callable[[int], Answer] | None) -> None:
    limited, sent = Limited(8, refusal), numbered(8, 4)
    with answering(by=limited) as server, RewardClient(server.url) as client:
        client.score(sent)
        assert len(server.received) > len(limited.scored) == 4
        before = len(server.received)
        client.score(sent)
        assert len(server.received) == before + 4
        client.score(sent[:2])
        assert len(server.received) == before + 5  # a smaller request is still sent whole


@pytest.mark.parametrize(
    "details", [{"group": 1, "limit": 3}, {"group": 1, "limit": 3, "setting": "METARM_MAX_TEXT_CHARS"}]
)
def test_a_text_that_is_too_long_is_an_error_at_once(details: dict[str, Any]) -> None:
    refusal = error(413, "payload_too_large", "group 1 has a text of 4 characters", details)
    with (
        answering(by=Limited(0, lambda _most: refusal)) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError, match="group 1 has a text") as raised,
    ):
        client.score(numbered(8, 4))
    assert raised.value.error_code == "payload_too_large"
    assert len(server.received) == 1


def test_one_response_that_is_too_large_is_an_error() -> None:
    with (
        answering(by=Limited(0, BARE)) as server,
        RewardClient(server.url, clock=Clock()) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score(numbered(4, 4))
    assert (raised.value.http_status, raised.value.error_code) == (413, "payload_too_large")
    assert len(server.received) == 5  # 16, 8, 4, 2 and 1 responses


def test_an_error_of_a_part_says_where_the_part_begins() -> None:
    limited = Limited(8)

    def fails_later(received: Received) -> Answer:
        answer = limited(received)
        return error(422, "invalid_request", "body.groups.1.x: no") if len(limited.scored) == 3 else answer

    with (
        answering(by=fails_later) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError, match=r"groups\.1\.x: no .*from its group 4") as raised,
    ):
        client.score(numbered(8, 4))
    assert raised.value.error_code == "invalid_request"


@pytest.mark.parametrize(("status", "code", "part"), [(503, "not_ready", 3), (409, "x", 3), (422, "x", 1)])
def test_an_error_that_names_no_group_of_a_part_does_not_say_where_it_begins(
    status: int, code: str, part: int
) -> None:
    limited = Limited(8)

    def fails(received: Received) -> Answer:
        answer = limited(received)
        return error(status, code, "no") if len(limited.scored) == part else answer

    with (
        answering(by=fails) as server,
        RewardClient(server.url, retries=0) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score(numbered(8, 4))
    assert raised.value.error_code == code
    assert "counts from" not in raised.value.message


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"prompt": "a", "response": ["b"]}, "group 0: it has no responses (unknown: 'response')"),
        ({"Prompt": "a", "responses": ["b"]}, "group 0: it has no prompt (unknown: 'Prompt')"),
        ({1: 2}, "group 0: it has no prompt and no responses (unknown: 1)"),
        ({"prompt": "a"}, "group 0: it has no responses"),
    ],
)
def test_a_group_without_a_field_is_refused_with_the_names(group: Any, message: str) -> None:
    with RewardClient() as client, pytest.raises(ClientError) as raised:
        client.score([group])
    assert raised.value.message == f"invalid_request: {message}"


def test_a_swap_between_two_parts_leaves_the_request_on_its_version() -> None:
    limited = Limited(8)
    limited.on_score = lambda count: setattr(limited, "current", "v000002") if count == 1 else None
    with answering(by=limited) as server, RewardClient(server.url) as client:
        result = client.score(sent := numbered(8, 4), request_id="mine")
        assert client.score(sent[:1]).version == "v000002"
    assert scores(result) == expected(sent)
    assert {result.version, *(group.version for group in result.groups)} == {"v000001"}
    pins = [body.get("version") for body in limited.scored]
    assert pins == [None, None, "v000001", "v000001", "v000001", None]
    assert limited.scored[1]["request_id"] == limited.scored[2]["request_id"]  # logged once


def test_a_label_that_moves_between_two_parts_leaves_the_request_on_its_version() -> None:
    limited = Limited(8)
    limited.on_score = lambda count: setattr(limited, "current", "v000002") if count == 1 else None
    with answering(by=limited) as server, RewardClient(server.url) as client:
        result = client.score(numbered(8, 4), version="stable")
    assert {result.version, *(group.version for group in result.groups)} == {"v000001"}
    assert [body["version"] for body in limited.scored] == ["stable", "v000001", "v000001", "v000001"]


def test_all_parts_are_scored_again_if_their_version_is_gone() -> None:
    limited = Limited(8)

    def swap(count: int) -> None:
        if count == 2:
            limited.current = "v000002"
            limited.unavailable.add("v000001")

    limited.on_score = swap
    with answering(by=limited) as server, RewardClient(server.url) as client:
        result = client.score(sent := numbered(8, 4))
    assert scores(result) == expected(sent)
    assert {result.version, *(group.version for group in result.groups)} == {"v000002"}


def test_all_parts_are_scored_again_once_only() -> None:
    limited = Limited(8)

    def swap(count: int) -> None:
        limited.unavailable.add(limited.current)
        limited.current = f"v{count + 2:06}"

    limited.on_score = swap
    with (
        answering(by=limited) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score(numbered(8, 4))
    assert raised.value.error_code == "version_unavailable"
    assert len(server.received) < 20


def test_a_version_of_the_callers_that_is_gone_is_an_error() -> None:
    limited = Limited(8)
    limited.on_score = lambda count: limited.unavailable.add("v000001") if count == 2 else None
    with (
        answering(by=limited) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score(numbered(8, 4), version="v000001")
    assert raised.value.error_code == "version_unavailable"
    assert len(limited.scored) == 2


def test_a_canary_keeps_its_prompts_in_every_part_and_scores_whole_groups() -> None:
    limited = Limited(8)
    limited.takes = {"1?", "5?"}
    sent = [*numbered(4, 4), {"prompt": "5?", "responses": [str(r) for r in range(20)]}]
    with answering(by=limited) as server, RewardClient(server.url) as client:
        result = client.score(sent)
    assert scores(result) == expected(sent)
    assert result.version == "v000001"
    assert [group.version for group in result.groups] == ["v000001", "v000009", *["v000001"] * 2, "v000009"]


def test_the_parts_share_one_deadline() -> None:
    clock = Clock()
    limited = Limited(8)
    limited.on_score = lambda _count: clock.sleep(25)
    with (
        answering(by=limited) as server,
        RewardClient(server.url, deadline_s=100, clock=clock) as client,
        pytest.raises(ClientError, match="deadline_s=100") as raised,
    ):
        client.score(numbered(32, 4))
    assert raised.value.error_code == "deadline_exceeded"
    assert len(limited.scored) == 4


def test_a_part_is_repeated_with_its_own_request_id() -> None:
    limited, ids = Limited(8), []

    def busy_at_first(received: Received) -> Answer:
        ids.append(received.body["request_id"])
        if len(ids) == 3:
            return error(503, "overloaded", "full")
        return limited(received)

    with answering(by=busy_at_first) as server, RewardClient(server.url, clock=Clock()) as client:
        result = client.score(sent := numbered(4, 4), request_id="mine")
    assert scores(result) == expected(sent)
    assert ids == ["mine", "mine.0", "mine.2", "mine.2"]


def test_threads_divide_their_requests_apart() -> None:
    limited = Limited(8)
    found: dict[int, list[tuple[float, ...]]] = {}
    with answering(by=limited) as server, RewardClient(server.url) as client:

        def score(size: int) -> None:
            found[size] = scores(client.score(numbered(size, 3)))

        threads = [threading.Thread(target=score, args=(size,)) for size in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {size: expected(numbered(size, 3)) for size in range(1, 9)}


@pytest.fixture
def server(tmp_path: Path, redis_process: RedisProcess) -> Iterator[HttpThread]:
    """A real one that takes 16 responses or 4000 bytes in a request."""
    limits = {"METARM_MAX_RESPONSES": "16", "METARM_MAX_BODY_BYTES": "4000"}
    publish_several(tmp_path / "data", 1, current=1)
    with service_here(tmp_path / "data", redis_process.url, **limits) as process:
        process.wait_ready()
        yield process


def test_a_real_server_scores_the_parts_as_it_scores_each_group(
    server: HttpThread, redis_client: redis.Redis
) -> None:
    many = [{"prompt": f"{n} trains", "responses": ["The first.", f"It is {n}."]} for n in range(40)]
    large = [{"prompt": "It is the first train. " * 40, "responses": [f"{n}", "The last."]} for n in range(6)]
    one = [{"prompt": "How many?", "responses": [f"It is {n}." for n in range(40)]}]
    with RewardClient(server.url) as client:
        for groups in (many, large, one):
            result = client.score(groups, request_id=f"the {len(groups)}")
            again = client.score(groups, request_id=f"the {len(groups)}")
            assert scores(result) == scores(again)
            for group, scored in zip(groups, result.groups, strict=True):
                for response, score in zip(group["responses"], scored.scores, strict=True):
                    alone = client.score([{"prompt": group["prompt"], "responses": [response]}], log=False)
                    assert alone.groups[0].scores[0] == pytest.approx(score, abs=TOLERANCE)
    # `one` is logged as four groups of at most 16 responses
    server.wait_until(lambda: redis_client.xlen(SAMPLES) >= 40 + 6 + 4)
    unused = SampleLog(redis_client).read_unused(100)
    logged = unused.groups
    assert len(logged) + unused.counts["single_response"] == 40 + 6 + 4
    assert sorted(r for g in logged if g.prompt == "How many?" for r in g.responses) == sorted(
        one[0]["responses"]
    )
