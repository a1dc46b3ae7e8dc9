from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
import redis

from metarm.records import Message, PolicyStamp, SampleGroup, decode_sample, encode_sample
from metarm.shared.connection import connect
from metarm.shared.keys import SAMPLES, SAMPLES_CONSUMER, SAMPLES_GROUP, SAMPLES_TRIMMED
from metarm.shared.sample_log import TRIM_AT_ONCE, LoggedRequest, SampleLog, Unused
from tests.processes import BUSY_S, RedisProcess

KINDS = ("used", "superseded", "single_response", "unreadable")


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


def unused(client: redis.Redis) -> Unused:
    """What a newly started trainer would read."""
    return SampleLog(client).read_unused(10**6)


def ids(found: Unused) -> list[str]:
    return [group.id for group in found.groups]


def entry_ids(client: redis.Redis) -> list[str]:
    return [id_.decode() for id_, _ in cast("list[tuple[bytes, object]]", client.xrange(SAMPLES))]


def claim(client: redis.Redis) -> None:
    """Read everything as a trainer of an earlier release does: as a consumer that claims it."""
    SampleLog(client).count_unused(1)  # creates the group
    while client.xreadgroup(SAMPLES_GROUP, SAMPLES_CONSUMER, {SAMPLES: ">"}, count=500):
        pass


def test_groups_are_read_in_logging_order_and_unchanged(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    assert sample_log.append([request("a", [group("1"), group("2", 1)]), request("b", [group("3", 4)])]) == 3
    assert sample_log.append([request("c", [group("4")])]) == 1
    found = unused(redis_client)
    assert found.groups == [group("1"), group("3", 4), group("4")]
    assert found.counts == {"used": 3, "superseded": 0, "single_response": 1, "unreadable": 0}
    assert redis_client.xlen(SAMPLES) == 4


def test_entries_on_several_pages_are_read_in_order_and_only_once(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    names = [str(i) for i in range(2203)]
    assert log_each(sample_log, names) == len(names)
    reader = SampleLog(redis_client)
    assert ids(reader.read_unused(10_000)) == names
    log_each(sample_log, ["new"])
    again = reader.read_unused(10_000)
    assert ids(again) == [*names, "new"]
    assert [again.first_entry, again.last_entry] == [entry_ids(redis_client)[0], entry_ids(redis_client)[-1]]
    reader.acknowledge_through(again.last_entry)
    assert ids(unused(redis_client)) == []


def test_a_repeated_request_id_is_logged_once(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    assert sample_log.append([request("same", [group("1"), group("2")])]) == 2
    assert sample_log.append([request("same", [group("1"), group("2")])]) == 0
    assert ids(unused(redis_client)) == ["1", "2"]


def test_other_texts_under_the_same_request_id_are_logged(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    """As by ranks of a job that name their requests by the step alone."""
    first, other = group("1"), replace(group("2"), responses=("another", "response"))
    assert sample_log.append([request("same", [first])]) == 1
    assert sample_log.append([request("same", [other])]) == 1
    assert sample_log.append([request("same", [other]), request("same", [replace(first, scored_at=1.0)])]) == 0
    assert ids(unused(redis_client)) == ["1", "2"]


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
    assert again.groups[:2] == taken.groups
    sample_log.acknowledge_through(again.last_entry)
    assert ids(unused(redis_client)) == []


def test_acknowledged_entries_are_never_delivered_again(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2"])
    sample_log.acknowledge_through(unused(redis_client).last_entry)
    log_each(sample_log, ["3"])
    assert ids(unused(redis_client)) == ["3"]
    assert redis_client.xlen(SAMPLES) == 3  # acknowledged entries stay for other readers until they are trimmed


def test_only_entries_up_to_the_given_one_are_acknowledged(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2", "3"])
    first, second, _ = entry_ids(redis_client)
    log_each(sample_log, ["4"])
    for entry in (second, second, first):  # one that is used already changes nothing
        sample_log.acknowledge_through(entry)
        assert ids(unused(redis_client)) == ["3", "4"]


def test_an_entry_that_was_not_read_is_not_acknowledged(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1"])
    first = unused(redis_client)
    log_each(sample_log, ["2"])
    sample_log.acknowledge_through(first.last_entry)
    assert ids(unused(redis_client)) == ["2"]


def test_an_empty_log_can_be_counted_read_and_trimmed(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    assert redis_client.xlen(SAMPLES) == 0
    assert sample_log.count_unused(10) == 0
    assert sample_log.read_unused(10) == Unused([], "", "", dict.fromkeys(KINDS, 0))
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
    sample_log.acknowledge_through(taken.first_entry)
    assert sample_log.count_unused(100) == 2
    sample_log.acknowledge_through(taken.last_entry)
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
    log_each(sample_log, [str(i) for i in range(2500)])
    assert sample_log.count_unused(5000) == 2500
    claim(redis_client)
    assert sample_log.count_unused(5000) == 2500


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


def test_an_entry_that_was_trimmed_after_an_unfinished_run_read_it_is_not_delivered_again(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, ["1", "2", "3"])
    claim(redis_client)
    sample_log.trim(max_entries=1, max_age_s=3600)
    log_each(sample_log, ["4"])
    assert sample_log.count_unused(100) == 2
    found = unused(redis_client)
    assert ids(found) == ["3", "4"]
    sample_log.acknowledge_through(found.last_entry)
    assert ids(unused(redis_client)) == []


def test_a_trimmed_entry_is_not_delivered(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    log_each(sample_log, ["1", "2", "3"])
    sample_log.trim(max_entries=1, max_age_s=3600)
    assert sample_log.count_unused(100) == 1
    assert ids(unused(redis_client)) == ["3"]


@pytest.mark.parametrize("data", [b"", b"not json", b'{"v":99}', b"\xff", b'{"v":1,', b'{"v":1,"id":"x"}'])
def test_an_entry_that_cannot_be_decoded_is_counted_as_unreadable(
    sample_log: SampleLog, redis_client: redis.Redis, data: bytes
) -> None:
    log_each(sample_log, ["1"])
    redis_client.xadd(SAMPLES, {"k": 2, "data": data})
    log_each(sample_log, ["2"])
    found = unused(redis_client)
    assert ids(found) == ["1", "2"]
    assert found.counts["unreadable"] == 1
    assert ids(sample_log.read_unused(2)) == ["1", "2"]  # it takes no other group's place


def test_every_acknowledged_append_survives_a_killed_redis_server(redis_process: RedisProcess) -> None:
    with redis_process.client() as client:
        sample_log = SampleLog(client)
        log_each(sample_log, [str(i) for i in range(40)])
        sample_log.acknowledge_through(entry_ids(client)[9])
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
            sample_log.read_unused(1)
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


def test_single_responses_do_not_hide_the_groups_behind_them(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, [f"single-{i}" for i in range(600)], responses=1)
    log_each(sample_log, [f"pair-{i}" for i in range(200)])
    claim(redis_client)
    assert sample_log.count_unused(128) == 128
    assert sample_log.count_unused(1000) == 200


def test_pending_groups_are_counted_after_older_ones_are_trimmed(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, [str(i) for i in range(1500)])
    claim(redis_client)
    sample_log.trim(max_entries=700, max_age_s=1e9)
    assert sample_log.count_unused(128) == 128
    assert sample_log.count_unused(5000) == 700


def test_a_foreign_entry_is_unreadable_and_not_counted_as_a_group(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    redis_client.xadd(SAMPLES, {"something": "else"})
    redis_client.xadd(SAMPLES, {"k": "many", "data": "{}"})
    log_each(sample_log, ["a"])
    assert sample_log.count_unused(10) == 1
    found = unused(redis_client)
    assert (ids(found), found.counts["unreadable"]) == (["a"], 2)


def test_an_append_that_redis_refused_can_be_repeated(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    redis_client.set(SAMPLES, "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        sample_log.append([request("r", [group("a"), group("b")])])
    redis_client.delete(SAMPLES)
    assert sample_log.append([request("r", [group("a"), group("b")])]) == 2
    assert sample_log.append([request("r", [group("a"), group("b")])]) == 0


def test_only_the_newest_groups_are_sent_and_decoded_whatever_else_lies_there(
    sample_log: SampleLog, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def counted(data: bytes) -> SampleGroup:
        decoded.append(data)
        return decode_sample(data)

    monkeypatch.setattr("metarm.shared.sample_log.decode_sample", counted)
    fill(redis_client, 10_000, responses=2)
    fill(redis_client, 10_000, responses=1)
    log_each(sample_log, [str(i) for i in range(30)])
    log_each(sample_log, ["single"], responses=1)
    sent_before = cast("dict[str, int]", redis_client.info("stats"))["total_net_output_bytes"]
    found = sample_log.read_unused(20)
    assert ids(found) == [str(i) for i in range(10, 30)]
    assert found.counts == {"used": 20, "superseded": 10_010, "single_response": 10_001, "unreadable": 0}
    assert len(decoded) == 20
    sent = cast("dict[str, int]", redis_client.info("stats"))["total_net_output_bytes"] - sent_before
    assert sent < 100_000  # all entries have megabytes
    assert [found.first_entry, found.last_entry] == [entry_ids(redis_client)[0], entry_ids(redis_client)[-1]]
    sample_log.acknowledge_through(found.last_entry)
    assert sample_log.read_unused(20).counts == dict.fromkeys(KINDS, 0)


def test_entries_that_an_earlier_release_has_claimed_are_honoured(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_each(sample_log, [str(i) for i in range(6)])
    claim(redis_client)
    entries = entry_ids(redis_client)
    redis_client.xack(SAMPLES, SAMPLES_GROUP, *entries[:2])  # by its last finished run
    log_each(sample_log, ["6", "7"])
    assert ids(unused(redis_client)) == ["2", "3", "4", "5", "6", "7"]
    sample_log.acknowledge_through(entries[1])
    assert ids(unused(redis_client)) == ["2", "3", "4", "5", "6", "7"]
    sample_log.acknowledge_through(entries[3])
    assert ids(unused(redis_client)) == ["4", "5", "6", "7"]
    claim(redis_client)  # the earlier release again
    assert ids(unused(redis_client)) == ["4", "5", "6", "7"]
    sample_log.acknowledge_through(entry_ids(redis_client)[-1])
    assert sample_log.count_unused(10) == 0
    assert redis_client.xpending(SAMPLES, SAMPLES_GROUP)["pending"] == 0


def test_no_command_trims_more_than_a_step_of_a_large_log(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    fill(redis_client, 20_000, responses=1)
    redis_client.config_set("slowlog-log-slower-than", 0)
    redis_client.slowlog_reset()
    redis_client.config_set("slowlog-max-len", 1000)
    assert sample_log.trim(max_entries=123, max_age_s=1e9) == {"age": 0, "count": 19_877}
    assert redis_client.xlen(SAMPLES) == 123
    commands = [entry["command"].split() for entry in redis_client.slowlog_get(1000)]
    by_count = [command for command in commands if command[0] == b"XTRIM" and b"MAXLEN" in command]
    assert [command[3] for command in by_count].count(b"~") >= 19_877 // TRIM_AT_ONCE


def fill(client: redis.Redis, entries: int, responses: int) -> None:
    """Log equal groups, quickly."""
    data = encode_sample(group("filler", responses))
    for _ in range(0, entries, 1000):
        pipeline = client.pipeline(transaction=False)
        for _ in range(1000):
            pipeline.xadd(SAMPLES, {"k": responses, "data": data})
        pipeline.execute()


def test_a_second_count_reads_only_what_is_new(sample_log: SampleLog, redis_client: redis.Redis) -> None:
    fill(redis_client, 5_000, responses=1)
    log_each(sample_log, ["1", "2"])
    assert sample_log.count_unused(100) == 2
    redis_client.config_set("slowlog-log-slower-than", 0)

    def pages() -> int:
        """Pages that the next count reads, whose result is checked against a new process's."""
        redis_client.slowlog_reset()
        count = sample_log.count_unused(100)
        commands = [entry["command"].split()[0] for entry in redis_client.slowlog_get(1000)]
        assert count == SampleLog(redis_client).count_unused(100)
        return commands.count(b"EVALSHA")

    assert pages() == 1
    fill(redis_client, 1_000, responses=1)
    log_each(sample_log, ["3"])
    assert pages() <= 2
    sample_log.trim(max_entries=500, max_age_s=1e9)
    assert pages() == 1
    sample_log.acknowledge_through(entry_ids(redis_client)[-2])
    assert sample_log.count_unused(100) == 1
    sample_log.trim(max_entries=0, max_age_s=1e9)
    assert sample_log.count_unused(100) == 0
    log_each(sample_log, ["4"])
    assert sample_log.count_unused(100) == 1
