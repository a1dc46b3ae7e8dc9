from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import cast

import pytest
import redis

from metarm.records import Message, PolicyStamp, SampleGroup, encode_sample
from metarm.shared.connection import connect
from metarm.shared.keys import SAMPLES, SAMPLES_TRIMMED
from metarm.shared.sample_log import Entry, LoggedRequest, SampleLog
from tests.processes import BUSY_S, RedisProcess


@pytest.fixture
def sample_log(redis_client: redis.Redis) -> SampleLog:
    return SampleLog(redis_client)


def group(name: str, responses: int = 2) -> SampleGroup:
    return SampleGroup(
        id=name,
        request_id=f"request-{name}",
        prompt=[Message(role="user", content=f"prompt of {name}, größer")],
        responses=tuple(f"response {i}" for i in range(responses)),
        scores=tuple(i / 7 for i in range(responses)),
        version="v000001",
        scored_at=1_700_000_000.5,
        policy=PolicyStamp("actor", 3),
    )


def request(name: str, groups: Sequence[SampleGroup], remember_s: int = 60) -> LoggedRequest:
    return LoggedRequest(name, tuple(groups), remember_s)


def log_each(sample_log: SampleLog, names: Sequence[str], responses: int = 2) -> int:
    return sample_log.append([request(f"request-{name}", [group(name, responses)]) for name in names])


def ids(entries: Sequence[Entry]) -> list[str | None]:
    return [entry.group.id if entry.group else None for entry in entries]


def unused(client: redis.Redis) -> list[Entry]:
    """The entries that a newly started trainer would read."""
    return list(SampleLog(client).read_unused())


def test_groups_are_read_in_logging_order_and_unchanged(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    assert sample_log.append([request("a", [group("1"), group("2", 1)]), request("b", [group("3", 4)])]) == 3
    assert sample_log.append([request("c", [group("4")])]) == 1
    assert [e.group for e in unused(redis_client)] == [group("1"), group("2", 1), group("3", 4), group("4")]
    assert redis_client.xlen(SAMPLES) == 4


def test_entries_on_several_pages_are_read_in_order_and_only_once(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    names = [str(i) for i in range(1203)]
    assert log_each(sample_log, names) == len(names)
    reader = SampleLog(redis_client)
    assert ids(list(reader.read_unused())) == names
    log_each(sample_log, ["new"])
    again = list(reader.read_unused())
    assert ids(again) == [*names, "new"]
    assert reader.acknowledge_through(again[-1].id) == len(names) + 1
    assert unused(redis_client) == []


def test_a_repeated_request_id_is_logged_once(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    assert sample_log.append([request("same", [group("1"), group("2")])]) == 2
    assert sample_log.append([request("same", [group("1"), group("2")])]) == 0
    assert sample_log.append([request("same", [group("3")]), request("other", [group("4")])]) == 1
    assert ids(unused(redis_client)) == ["1", "2", "4"]


def test_a_write_repeated_after_a_lost_response_adds_only_the_missing_entries(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    first, second = request("first", [group("1")]), request("second", [group("2"), group("3")])
    sample_log.append([first])  # as if the response to [first, second] was lost after the first
    assert sample_log.append([first, second]) == 2
    assert sample_log.append([first, second]) == 0
    assert sample_log.append([first, first]) == 0
    assert ids(unused(redis_client)) == ["1", "2", "3"]


def test_a_request_id_expires(sample_log: SampleLog) -> None:
    assert sample_log.append([request("short", [group("1")], remember_s=3)]) == 1
    assert sample_log.append([request("short", [group("1")], remember_s=3)]) == 0
    time.sleep(3.1)
    assert sample_log.append([request("short", [group("1")], remember_s=3)]) == 1


def test_unused_entries_are_delivered_again_until_they_are_acknowledged(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2"])
    taken = unused(redis_client)  # a trainer that crashes after this
    log_each(sample_log, ["3"])
    again = unused(redis_client)
    assert ids(again) == ["1", "2", "3"]
    assert again[:2] == taken
    assert sample_log.acknowledge_through(again[-1].id) == 3
    assert unused(redis_client) == []


def test_acknowledged_entries_are_never_delivered_again(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2"])
    sample_log.acknowledge_through(unused(redis_client)[-1].id)
    log_each(sample_log, ["3"])
    assert ids(unused(redis_client)) == ["3"]
    assert redis_client.xlen(SAMPLES) == 3  # acknowledged entries stay for other readers until they are trimmed


def test_only_entries_read_up_to_the_given_one_are_acknowledged(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2", "3"])
    entries = unused(redis_client)
    log_each(sample_log, ["4"])
    assert sample_log.acknowledge_through(entries[1].id) == 2
    assert sample_log.acknowledge_through(entries[1].id) == 0
    assert ids(unused(redis_client)) == ["3", "4"]


def test_an_entry_that_was_not_read_is_not_acknowledged(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1"])
    first = unused(redis_client)[0]
    log_each(sample_log, ["2"])
    assert sample_log.acknowledge_through(first.id) == 1
    assert ids(unused(redis_client)) == ["2"]


def test_an_empty_log_can_be_counted_read_and_trimmed(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    assert redis_client.xlen(SAMPLES) == 0
    assert sample_log.count_unused(10) == 0
    assert list(sample_log.read_unused()) == []
    assert sample_log.trim(10, 10) == {"age": 0, "count": 0}
    assert redis_client.hgetall(SAMPLES_TRIMMED) == {}


def test_only_groups_with_several_responses_count_as_unused(sample_log: SampleLog) -> None:
    log_each(sample_log, ["single"], responses=1)
    log_each(sample_log, ["pair"])
    log_each(sample_log, ["many"], responses=8)
    assert sample_log.count_unused(100) == 2


def test_groups_read_by_an_unfinished_run_still_count_as_unused(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2"])
    log_each(sample_log, ["single"], responses=1)
    taken = unused(redis_client)
    log_each(sample_log, ["3"])
    assert sample_log.count_unused(100) == 3
    sample_log.acknowledge_through(taken[0].id)
    assert sample_log.count_unused(100) == 2
    sample_log.acknowledge_through(taken[-1].id)
    assert sample_log.count_unused(100) == 1


def test_counting_stops_at_the_given_limit(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    log_each(sample_log, ["1", "2", "3"])
    assert sample_log.count_unused(2) == 2
    unused(redis_client)
    assert sample_log.count_unused(2) == 2
    log_each(sample_log, ["4", "5"])
    assert [sample_log.count_unused(n) for n in (3, 4, 5, 6)] == [3, 4, 5, 5]


def test_counting_does_not_claim_entries(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    log_each(sample_log, ["1", "2"])
    sample_log.count_unused(1)
    sample_log.count_unused(10)
    assert ids(unused(redis_client)) == ["1", "2"]


def test_groups_beyond_a_page_are_counted(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    log_each(sample_log, [str(i) for i in range(700)])
    assert sample_log.count_unused(2000) == 700
    unused(redis_client)
    assert sample_log.count_unused(2000) == 700


def test_trimming_by_count_keeps_exactly_the_newest(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    log_each(sample_log, [str(i) for i in range(500)])
    assert sample_log.trim(max_entries=7, max_age_s=3600) == {"age": 0, "count": 493}
    assert redis_client.xlen(SAMPLES) == 7
    assert ids(unused(redis_client)) == [str(i) for i in range(493, 500)]


def test_trimming_by_age_drops_exactly_the_older_entries(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    now_ms = int(time.time() * 1000)
    for age_s in range(200, 0, -1):
        fields = {"k": 2, "data": encode_sample(group(str(age_s)))}
        redis_client.xadd(SAMPLES, fields, id=f"{now_ms - age_s * 1000}-0")  # type: ignore[arg-type]
    passed_s = time.time() - now_ms / 1000
    trimmed = sample_log.trim(max_entries=1000, max_age_s=30.5 + passed_s)  # with a margin of half a second
    assert trimmed == {"age": 170, "count": 0}
    assert ids(unused(redis_client)) == [str(age_s) for age_s in range(30, 0, -1)]


def test_trimmed_entries_are_counted_by_reason_across_servers(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2", "3", "4", "5"])
    sample_log.trim(max_entries=3, max_age_s=3600)
    SampleLog(redis_client).trim(max_entries=2, max_age_s=3600)
    assert redis_client.hgetall(SAMPLES_TRIMMED) == {b"count": b"3"}
    time.sleep(0.01)
    sample_log.trim(max_entries=3, max_age_s=0.001)
    assert redis_client.hgetall(SAMPLES_TRIMMED) == {b"count": b"3", b"age": b"2"}
    assert redis_client.xlen(SAMPLES) == 0


def test_a_trimmed_entry_that_was_claimed_is_delivered_as_unreadable(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2", "3"])
    unused(redis_client)
    sample_log.trim(max_entries=1, max_age_s=3600)
    log_each(sample_log, ["4"])
    assert sample_log.count_unused(100) == 2
    entries = unused(redis_client)
    assert ids(entries) == [None, None, "3", "4"]
    assert sample_log.acknowledge_through(entries[-1].id) == 4
    assert unused(redis_client) == []


def test_a_trimmed_entry_that_was_not_claimed_is_not_delivered(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2", "3"])
    sample_log.trim(max_entries=1, max_age_s=3600)
    assert sample_log.count_unused(100) == 1
    assert ids(unused(redis_client)) == ["3"]


@pytest.mark.parametrize("data", [b"", b"not json", b'{"v":99}', b"\xff"])
def test_an_entry_that_cannot_be_decoded_is_delivered_as_unreadable(
    sample_log: SampleLog, redis_client: redis.Redis, data: bytes
) -> None:
    log_each(sample_log, ["1"])
    redis_client.xadd(SAMPLES, {"k": 2, "data": data})
    log_each(sample_log, ["2"])
    entries = unused(redis_client)
    assert ids(entries) == ["1", None, "2"]
    assert sample_log.acknowledge_through(entries[-1].id) == 3


def test_every_acknowledged_append_survives_a_killed_redis_server(redis_process: RedisProcess) -> None:
    with redis_process.client() as client:
        sample_log = SampleLog(client)
        log_each(sample_log, [str(i) for i in range(40)])
        sample_log.acknowledge_through(unused(client)[9].id)
        for i in range(40, 60):
            log_each(sample_log, [str(i)])
        while cast("dict[str, int]", client.info("persistence"))["aof_buffer_length"]:
            time.sleep(0.01)  # a slow disk that is syncing can delay a write by up to two seconds
    redis_process.kill(signal.SIGKILL)
    redis_process.wait()
    redis_process.start()
    with redis_process.client() as client:
        sample_log = SampleLog(client)
        assert client.xlen(SAMPLES) == 60
        assert ids(unused(client)) == [str(i) for i in range(10, 60)]
        assert sample_log.append([request("request-59", [group("59")])]) == 0  # its request id survives too


def test_every_method_raises_a_redis_error_when_the_server_is_down(redis_process: RedisProcess) -> None:
    with connect(redis_process.url, timeout_s=1.0) as client:
        sample_log = SampleLog(client)
        log_each(sample_log, ["1"])
        redis_process.kill(signal.SIGKILL)
        redis_process.wait()
        with pytest.raises(redis.RedisError):
            log_each(sample_log, ["2"])
        with pytest.raises(redis.RedisError):
            sample_log.trim(1, 1)
        with pytest.raises(redis.RedisError):
            sample_log.count_unused(1)
        with pytest.raises(redis.RedisError):
            list(sample_log.read_unused())
        with pytest.raises(redis.RedisError):
            sample_log.acknowledge_through("1-0")
        redis_process.start()
        assert log_each(sample_log, ["3"]) == 1  # the same client works again
        assert ids(unused(client)) == ["1", "3"]


def test_a_call_to_a_hanging_server_fails_within_the_timeout(redis_process: RedisProcess) -> None:
    with connect(redis_process.url, timeout_s=0.2) as client:
        sample_log = SampleLog(client)
        redis_process.kill(signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(redis.RedisError):
                log_each(sample_log, ["1"])
        finally:
            redis_process.kill(signal.SIGCONT)
        assert time.monotonic() - started < 0.2 + BUSY_S


def test_pending_single_responses_do_not_hide_the_groups_behind_them(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, [f"single-{i}" for i in range(600)], responses=1)
    log_each(sample_log, [f"pair-{i}" for i in range(200)])
    assert len(unused(redis_client)) == 800  # claimed by a run that does not finish
    assert sample_log.count_unused(128) == 128
    assert sample_log.count_unused(1000) == 200


def test_pending_groups_are_counted_after_older_ones_are_trimmed(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, [str(i) for i in range(1500)])
    assert len(unused(redis_client)) == 1500
    sample_log.trim(max_entries=700, max_age_s=1e9)
    assert sample_log.count_unused(128) == 128
    assert sample_log.count_unused(5000) == 700


def test_a_foreign_entry_is_delivered_as_unreadable_and_not_counted(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    redis_client.xadd(SAMPLES, {"something": "else"})
    redis_client.xadd(SAMPLES, {"k": "many", "data": "{}"})
    log_each(sample_log, ["a"])
    assert sample_log.count_unused(10) == 1
    assert ids(unused(redis_client)) == [None, None, "a"]
    assert sample_log.count_unused(10) == 1


def test_an_append_that_redis_refused_can_be_repeated(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    redis_client.set(SAMPLES, "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        sample_log.append([request("r", [group("a"), group("b")])])
    redis_client.delete(SAMPLES)
    assert sample_log.append([request("r", [group("a"), group("b")])]) == 2
    assert sample_log.append([request("r", [group("a"), group("b")])]) == 0
