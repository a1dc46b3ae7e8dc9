from __future__ import annotations

from typing import cast

import pytest
import redis

from metarm.errors import NotEnoughDataError
from metarm.records import PolicyStamp, SampleGroup
from metarm.shared.keys import SAMPLES
from metarm.shared.sample_log import LoggedRequest, SampleLog
from trainer.meta_set import read_meta_set
from trainer.settings import TrainerSettings


@pytest.fixture
def sample_log(redis_client: redis.Redis) -> SampleLog:
    return SampleLog(redis_client)


def group(name: str, responses: int = 2, step: int | None = None) -> SampleGroup:
    return SampleGroup(
        id=name,
        request_id=name,
        prompt=f"prompt of {name}",
        responses=("yes",) * responses,
        scores=(0.0,) * responses,
        version="v000001",
        scored_at=0.0,
        policy=None if step is None else PolicyStamp("actor", step),
    )


def log_groups(sample_log: SampleLog, *groups: SampleGroup) -> None:
    sample_log.append([LoggedRequest(g.id, (g,), 60) for g in groups])


def test_the_newest_groups_are_used_and_the_counts_cover_every_entry(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_groups(sample_log, *[group(f"old{i}") for i in range(3)])
    SampleLog(redis_client).read_unused(10)  # by a run that never ends
    sample_log.trim(max_entries=1, max_age_s=3600)
    log_groups(sample_log, group("single", responses=1))
    redis_client.xadd(SAMPLES, {"k": 2, "data": b"garbage"})
    log_groups(sample_log, *[group(f"new{i}", responses=3) for i in range(4)])
    meta_set = read_meta_set(sample_log, TrainerSettings(min_groups=2, max_groups=3))
    assert [g.id for g in meta_set.groups] == ["new1", "new2", "new3"]
    assert meta_set.counts == {"used": 3, "superseded": 2, "single_response": 1, "unreadable": 1}
    assert sum(meta_set.counts.values()) == redis_client.xlen(SAMPLES)


def test_all_groups_are_used_up_to_the_maximum(sample_log: SampleLog) -> None:
    log_groups(sample_log, *[group(str(i)) for i in range(3)])
    meta_set = read_meta_set(sample_log, TrainerSettings(min_groups=3, max_groups=3))
    assert [g.id for g in meta_set.groups] == ["0", "1", "2"]
    assert meta_set.counts == {"used": 3, "superseded": 0, "single_response": 0, "unreadable": 0}


def test_too_few_groups_raise_not_enough_data_and_stay_for_a_later_run(sample_log: SampleLog) -> None:
    settings = TrainerSettings(min_groups=2, max_groups=10)
    with pytest.raises(NotEnoughDataError, match="0 unused"):
        read_meta_set(sample_log, settings)
    log_groups(sample_log, group("1"), group("single", responses=1))
    with pytest.raises(NotEnoughDataError, match=r"1 unused .* 2 are needed"):
        read_meta_set(sample_log, settings)
    log_groups(sample_log, group("2"))
    meta_set = read_meta_set(sample_log, settings)
    assert [g.id for g in meta_set.groups] == ["1", "2"]


def test_read_groups_count_as_unused_until_they_are_acknowledged(sample_log: SampleLog) -> None:
    settings = TrainerSettings(min_groups=1, max_groups=2)
    log_groups(sample_log, *[group(str(i)) for i in range(5)])
    first = read_meta_set(sample_log, settings)
    assert read_meta_set(sample_log, settings) == first
    sample_log.acknowledge_through(first.last_entry)  # the superseded groups, too
    assert sample_log.count_unused(10) == 0
    with pytest.raises(NotEnoughDataError):
        read_meta_set(sample_log, settings)


def test_the_record_contains_the_range_of_entries_and_of_policy_steps(
    sample_log: SampleLog, redis_client: redis.Redis
) -> None:
    log_groups(sample_log, group("1", step=30), group("2", step=10), group("3"), group("4", step=20))
    meta_set = read_meta_set(sample_log, TrainerSettings(min_groups=1, max_groups=10))
    record = meta_set.record()
    assert record["policy_steps"] == [10, 30]
    assert record["counts"] == meta_set.counts
    entries = [id_.decode() for id_, _ in cast("list[tuple[bytes, object]]", redis_client.xrange(SAMPLES))]
    assert (record["first_entry"], record["last_entry"]) == (entries[0], entries[-1])


def test_without_policy_stamps_no_steps_are_recorded(sample_log: SampleLog) -> None:
    log_groups(sample_log, group("1"))
    assert read_meta_set(sample_log, TrainerSettings(min_groups=1)).record()["policy_steps"] is None
