from __future__ import annotations

from typing import cast

import pytest
import redis

from metarm.errors import NotEnoughDataError
from metarm.records import PolicyStamp, SampleGroup
from metarm.shared.keys import SAMPLES
from metarm.shared.reuse import Reuse
from metarm.shared.sample_log import LoggedRequest, SampleLog
from trainer.meta_set import MetaSet, read_meta_set
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


# --- reuse ---------------------------------------------------------------------------------------------


def used_by(job: str, meta_set: MetaSet) -> Reuse:
    return Reuse(job, meta_set.ranges)


def names(meta_set: MetaSet) -> list[str]:
    return [g.id for g in meta_set.groups]


SETTINGS = TrainerSettings(min_groups=2, max_groups=6)


def first_run(sample_log: SampleLog, *, acknowledged: bool = True) -> MetaSet:
    """A run that used 2 … 7 of ten entries: 0 and 1 are superseded, and two are no groups."""
    log_groups(sample_log, *[group(str(i)) for i in range(4)], group("single", 1))
    log_groups(sample_log, *[group(str(i)) for i in range(4, 7)], group("alone", 1), group("7"))
    found = read_meta_set(sample_log, SETTINGS)
    assert names(found) == ["2", "3", "4", "5", "6", "7"]
    if acknowledged:
        sample_log.acknowledge_through(found.last_entry)
    return found


@pytest.mark.parametrize("acknowledged", [True, False], ids=["rejected", "failed"])
def test_a_reused_run_gives_exactly_its_groups(sample_log: SampleLog, acknowledged: bool) -> None:
    first = first_run(sample_log, acknowledged=acknowledged)
    again = read_meta_set(sample_log, SETTINGS, used_by("job-1", first))
    assert again.groups == first.groups
    assert again.ranges == first.ranges
    assert (again.counts["used"], again.counts["reused"], again.counts["trimmed"]) == (6, 6, 0)
    assert again.record()["reused_from"] == "job-1"
    sample_log.acknowledge_through(again.last_entry)
    assert sample_log.count_unused(100) == 0
    log_groups(sample_log, group("new"))
    assert sample_log.count_unused(100) == 1


@pytest.mark.parametrize("acknowledged", [True, False], ids=["rejected", "failed"])
def test_newer_groups_come_first_and_the_rest_is_reused(sample_log: SampleLog, acknowledged: bool) -> None:
    first = first_run(sample_log, acknowledged=acknowledged)
    log_groups(sample_log, *[group(f"new{i}") for i in range(4)], group("new single", 1))
    again = read_meta_set(sample_log, SETTINGS, used_by("job-1", first))
    assert names(again) == ["6", "7", "new0", "new1", "new2", "new3"]
    assert again.counts == {
        "used": 6,
        "superseded": 4 if acknowledged else 6,  # 0 and 1 are unused still
        "single_response": 1,
        "unreadable": 0,
        "reused": 2,
        "trimmed": 0,
    }
    sample_log.acknowledge_through(again.last_entry)
    assert sample_log.count_unused(100) == 0


def test_unused_groups_that_a_reuse_passes_by_are_counted(sample_log: SampleLog) -> None:
    """Of a run that failed: its position did not move, and reuse moves it past what it left out."""
    log_groups(sample_log, *[group(str(i)) for i in range(10)])
    failed = read_meta_set(sample_log, TrainerSettings(min_groups=2, max_groups=4))
    many = TrainerSettings(min_groups=2, max_groups=100)
    again = read_meta_set(sample_log, many, used_by("job-1", failed))
    assert names(again) == ["6", "7", "8", "9"]
    assert (again.counts["used"], again.counts["superseded"]) == (4, 6)


def test_entries_that_another_run_used_in_between_are_not_reused(sample_log: SampleLog) -> None:
    first = first_run(sample_log)
    log_groups(sample_log, *[group(f"other{i}") for i in range(2)])
    sample_log.acknowledge_through(read_meta_set(sample_log, SETTINGS).last_entry)
    log_groups(sample_log, group("new"))
    many = TrainerSettings(min_groups=2, max_groups=100)
    again = read_meta_set(sample_log, many, used_by("job-1", first))
    assert names(again) == ["2", "3", "4", "5", "6", "7", "new"]
    sample_log.acknowledge_through(again.last_entry)
    log_groups(sample_log, group("newest"))
    third = read_meta_set(sample_log, many, used_by("job-2", again))  # reuse of a run that reused another's
    assert names(third) == [*names(again), "newest"]
    assert (third.counts["reused"], third.reused_from) == (7, "job-2")


def test_reuse_never_moves_the_position_back(sample_log: SampleLog) -> None:
    first = first_run(sample_log)
    log_groups(sample_log, *[group(f"other{i}") for i in range(2)])
    sample_log.acknowledge_through(read_meta_set(sample_log, SETTINGS).last_entry)
    again = read_meta_set(sample_log, SETTINGS, used_by("job-1", first))
    log_groups(sample_log, group("new"))
    sample_log.acknowledge_through(again.last_entry)
    assert [g.id for g in sample_log.read_unused(100).groups] == ["new"]


def test_trimmed_groups_are_counted_and_the_others_reused(sample_log: SampleLog) -> None:
    first = first_run(sample_log)
    sample_log.trim(max_entries=4, max_age_s=3600)  # 5, 6, a single response, 7
    again = read_meta_set(sample_log, SETTINGS, used_by("job-1", first))
    assert names(again) == ["5", "6", "7"]
    assert (again.counts["reused"], again.counts["trimmed"]) == (3, 3)
    assert sample_log.count_reusable(first.ranges) == (3, 0, 3)


@pytest.mark.parametrize("newer", [0, 5])
def test_a_run_whose_groups_are_all_trimmed_cannot_be_reused(sample_log: SampleLog, newer: int) -> None:
    first = first_run(sample_log)
    log_groups(sample_log, *[group(f"new{i}") for i in range(newer)])
    sample_log.trim(max_entries=newer, max_age_s=3600)
    with pytest.raises(
        NotEnoughDataError, match=rf"0 of the 6 .* job-1 .*6 were trimmed.* {newer} newer"
    ) as error:
        read_meta_set(sample_log, SETTINGS, used_by("job-1", first))
    assert error.value.details["have"] == {"groups": newer, "reused": 0, "trimmed": 6}
    assert sample_log.count_unused(100) == newer


def test_too_few_groups_with_those_left_raise_not_enough_data(sample_log: SampleLog) -> None:
    first = first_run(sample_log)
    sample_log.trim(max_entries=1, max_age_s=3600)
    with pytest.raises(NotEnoughDataError, match=r"1 of the 6 .* 0 newer groups are unused; 2 are needed"):
        read_meta_set(sample_log, SETTINGS, used_by("job-1", first))


def test_the_count_of_reusable_groups_is_that_of_the_run(sample_log: SampleLog) -> None:
    first = first_run(sample_log)
    assert sample_log.count_reusable(first.ranges) == (6, 0, 0)
    log_groups(sample_log, *[group(f"new{i}") for i in range(3)], group("single again", 1))
    assert sample_log.count_reusable(first.ranges) == (6, 3, 0)
