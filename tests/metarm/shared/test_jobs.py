from __future__ import annotations

import signal
import time

import pytest
import redis

from metarm.errors import JobConflictError, UnknownJobError
from metarm.records import FINISHED, JobStatus
from metarm.shared.connection import connect
from metarm.shared.jobs import KEEP_JOBS, JobBoard, JudgedRuns, RetrainCooldown, public_view
from metarm.shared.keys import JOBS, job_key
from tests.processes import RedisProcess


@pytest.fixture
def board(redis_client: redis.Redis) -> JobBoard:
    return JobBoard(redis_client)


def test_a_new_job_is_queued_and_read_back_with_its_options(board: JobBoard) -> None:
    before = time.time()
    job = board.create({"steps": 3, "ascent": "none"})
    assert job.status == "queued"
    assert before <= job.created <= time.time()
    assert board.get(job.id) == board.active() == job
    assert job.options == {"steps": 3, "ascent": "none"}


def test_a_second_job_is_rejected_and_the_error_names_the_first(board: JobBoard) -> None:
    first = board.create({})
    with pytest.raises(JobConflictError, match=first.id) as refused:
        board.create({})
    assert refused.value.details == {"job": first.id}
    assert board.recent(10) == [first]


def test_a_rejected_job_leaves_no_keys(board: JobBoard, redis_client: redis.Redis) -> None:
    first = board.create({})
    keys = set(redis_client.keys("metarm:*"))
    with pytest.raises(JobConflictError):
        board.create({})
    assert set(redis_client.keys("metarm:*")) == keys
    assert board.active() == first


@pytest.mark.parametrize("status", sorted(FINISHED))
def test_a_finished_job_frees_its_slot(board: JobBoard, status: JobStatus) -> None:
    first = board.create({})
    last = board.finish(first, status, candidate="v000002")
    assert board.active() is None
    assert board.get(first.id) == last
    assert (last.status, last.candidate) == (status, "v000002")
    assert last.finished is not None
    assert last.finished >= last.created
    second = board.create({})
    assert board.active() == second


def test_a_finished_job_expires_after_its_retention_time(board: JobBoard, redis_client: redis.Redis) -> None:
    job = board.create({})
    assert redis_client.ttl(job_key(job.id)) == -1  # an unfinished job never expires
    board.finish(job, "failed")
    assert 86400 < redis_client.ttl(job_key(job.id)) <= 30 * 86400


def test_finishing_a_job_twice_does_not_free_the_slot_of_the_next_job(board: JobBoard) -> None:
    first = board.create({})
    board.finish(first, "failed")
    second = board.create({})
    board.finish(first, "cancelled")
    assert board.active() == second


def test_other_clients_read_the_saved_state_of_a_running_job(
    board: JobBoard, redis_client: redis.Redis
) -> None:
    job = board.create({})
    running = board.save(job.with_changes(status="running", attempts=1, progress={"step": 4, "steps": 9}))
    assert JobBoard(redis_client).get(job.id) == running
    assert running.progress == {"step": 4, "steps": 9}


def test_a_job_without_a_record_is_unknown(board: JobBoard) -> None:
    with pytest.raises(UnknownJobError, match="job-nowhere"):
        board.get("job-nowhere")
    with pytest.raises(UnknownJobError):
        board.request_cancel("job-nowhere")


def test_a_cancel_request_affects_only_its_own_job(board: JobBoard) -> None:
    job = board.create({})
    assert not board.cancel_requested(job.id)
    assert board.request_cancel(job.id) == job
    assert board.cancel_requested(job.id)
    board.finish(job, "cancelled")
    assert not board.cancel_requested(board.create({}).id)


def test_cancelling_a_finished_job_changes_nothing(board: JobBoard) -> None:
    job = board.create({})
    last = board.finish(job, "published")
    assert board.request_cancel(job.id) == last
    assert not board.cancel_requested(job.id)
    assert board.get(job.id) == last


def test_recent_jobs_are_listed_newest_first_up_to_the_limit(board: JobBoard) -> None:
    made = []
    for _ in range(4):
        made.append(board.create({}).id)
        board.finish(board.get(made[-1]), "rejected")
        time.sleep(0.002)
    assert [job.id for job in board.recent(10)] == made[::-1]
    assert [job.id for job in board.recent(2)] == made[:1:-1]


def test_recent_jobs_omit_expired_jobs(board: JobBoard, redis_client: redis.Redis) -> None:
    first = board.create({})
    board.finish(first, "failed")
    second = board.create({})
    redis_client.delete(job_key(first.id))
    assert board.recent(10) == [second]
    assert board.recent(10) == [second]


def test_the_public_view_names_the_id_job(board: JobBoard) -> None:
    job = board.create({"seed": 1})
    view = public_view(job)
    assert view["job"] == job.id
    assert "id" not in view
    assert view["options"] == {"seed": 1}


def test_jobs_survive_a_restart_of_redis(redis_process: RedisProcess) -> None:
    with redis_process.client() as client:
        job = JobBoard(client).create({"steps": 2})
    redis_process.kill(signal.SIGKILL)
    redis_process.wait()
    redis_process.start()
    with redis_process.client() as client:
        assert JobBoard(client).active() == job


def test_only_one_server_starts_a_cooldown_and_it_can_cancel_it(redis_client: redis.Redis) -> None:
    one, other = RetrainCooldown(redis_client, 60), RetrainCooldown(redis_client, 60)
    assert one.left_s() == 0
    assert one.begin("v000001")
    assert not other.begin("v000001")
    assert other.left_s() == pytest.approx(60, abs=2)
    one.cancel()
    assert other.begin("v000001")


def test_each_run_in_a_row_that_did_not_help_doubles_the_pause_up_to_16_times(
    redis_client: redis.Redis,
) -> None:
    one, other = RetrainCooldown(redis_client, 100), RetrainCooldown(redis_client, 100)
    board = JobBoard(redis_client)
    assert one.begin("v000001")
    for run, factor in enumerate([2, 4, 8, 16, 16, 16], start=1):
        job = board.finish(board.create({}), "rejected")
        assert one.judge(job, "v000001", False, "rejected") == run
        assert other.judge(job, "v000001", False, "rejected") is None  # counted once
        assert other.judged() == JudgedRuns(job.id, run, "rejected")
        assert other.wait_s(run) == 100 * factor
        assert other.left_s() == pytest.approx(100 * factor, abs=5)
    one.cancel()
    assert other.begin("v000001")
    assert one.left_s() == pytest.approx(1600, abs=5)

    helped = board.finish(board.create({}), "published")
    assert one.judge(helped, "v000001", True, "raised") == 0
    assert other.left_s() == pytest.approx(100, abs=5)
    assert other.judge(job, "v000001", False, "an earlier run") is None
    assert other.judge(helped, "v000001", False, "rolled back") == 1
    assert one.left_s() == pytest.approx(200, abs=5)


def test_a_pause_counts_from_the_start_of_the_run(redis_client: redis.Redis) -> None:
    cooldown = RetrainCooldown(redis_client, 100)
    job = JobBoard(redis_client).create({})
    assert cooldown.judge(job.with_changes(created=job.created - 150), "v000001", False, "rejected") == 1
    assert cooldown.left_s() == pytest.approx(50, abs=5)
    assert cooldown.judge(job.with_changes(created=job.created - 140), "v000001", True, "raised") == 0
    assert cooldown.left_s() == 0


def test_every_method_raises_a_redis_error_when_the_server_is_down(redis_process: RedisProcess) -> None:
    with connect(redis_process.url, timeout_s=1.0) as client:
        board = JobBoard(client)
        job = board.create({})
        redis_process.kill(signal.SIGKILL)
        redis_process.wait()
        with pytest.raises(redis.RedisError):
            board.create({})
        with pytest.raises(redis.RedisError):
            board.get(job.id)
        with pytest.raises(redis.RedisError):
            board.recent(1)
        with pytest.raises(redis.RedisError):
            board.finish(job, "failed")


def test_a_job_whose_record_was_evicted_does_not_block_the_next(
    board: JobBoard, redis_client: redis.Redis
) -> None:
    evicted = board.create({})
    redis_client.delete(job_key(evicted.id))
    assert board.active() is None
    assert board.active() is None
    later = board.create({})
    assert board.active() == later


def test_only_the_newest_jobs_are_kept(board: JobBoard, redis_client: redis.Redis) -> None:
    old = {f"job-{number}": float(number) for number in range(KEEP_JOBS + 500)}  # of an earlier release
    redis_client.zadd(JOBS, old)
    redis_client.mset({job_key(job): b"{}" for job in old})
    job = board.create({})
    assert redis_client.zcard(JOBS) == KEEP_JOBS
    assert len(redis_client.keys(job_key("*"))) == KEEP_JOBS
    assert board.get(job.id) == board.active() == job
    assert redis_client.zrevrange(JOBS, 0, 1) == [job.id.encode(), f"job-{KEEP_JOBS + 499}".encode()]
