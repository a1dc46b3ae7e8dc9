"""Lua scripts are loaded again when Redis no longer has them: after SCRIPT FLUSH, and after a failover."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import metarm
from metarm.records import SampleGroup
from metarm.shared.connection import connect
from metarm.shared.cut_over import CutOverBoard
from metarm.shared.fleet import Fleet, ServiceRecord
from metarm.shared.jobs import JobBoard
from metarm.shared.keys import SAMPLES
from metarm.shared.leases import LeaseBoard
from metarm.shared.presence import TrainerPresence
from metarm.shared.sample_log import LoggedRequest, SampleLog
from metarm.shared.scripts import HERE, load_script
from metarm.shared.watches import WatchBoard, WatchRecord
from tests.processes import RedisProcess

GROUP = SampleGroup("g", "r", "What?", ("a", "b"), (0.0, 1.0), "v000001", 0.0)


@pytest.fixture
def client(redis_process: RedisProcess) -> Iterator[redis.Redis]:
    with contextlib.closing(connect(redis_process.url)) as client:
        yield client


def use_every_script(client: redis.Redis, number: int) -> None:
    """Call every script once, and check its outcome on a Redis without keys for `number`."""
    assert SampleLog(client).append([LoggedRequest(f"request-{number}", (GROUP,), 60)]) == 1
    jobs = JobBoard(client)
    assert jobs.finish(jobs.create({}), "failed").status == "failed"
    assert TrainerPresence(client).hold(f"trainer-{number}", {}, 60_000)
    TrainerPresence(client).release(f"trainer-{number}")
    assert Fleet(client).renew(ServiceRecord(f"s{number}", "http://s", 1, None, [], 0.0))
    begun = CutOverBoard(client).begin(f"c{number}", "v000002", "test", 60_000)
    assert begun is not None
    assert CutOverBoard(client).move(begun.id, "prepare", "abort") is not None
    leases = LeaseBoard(client, most_leases=10, most_versions=10)
    leases.create(f"lease-{number}", "v000001", 60.0)
    assert f"lease-{number}" in leases.all()
    WatchBoard(client).save(WatchRecord(f"v{number:06d}", "v000001", "passed", 0.0))
    assert WatchBoard(client).read()[f"v{number:06d}"].outcome == "passed"


def test_scripts_that_redis_has_forgotten_are_loaded_again(client: redis.Redis) -> None:
    use_every_script(client, 1)
    client.script_flush()
    use_every_script(client, 2)


def test_a_pipeline_reloads_scripts_that_redis_has_forgotten_between_two_writes(client: redis.Redis) -> None:
    sample_log = SampleLog(client)
    for number in range(3):
        requests = [LoggedRequest(f"{number}-{part}", (GROUP, GROUP), 60) for part in range(5)]
        assert sample_log.append(requests) == 10
        client.script_flush()
    assert client.xlen(SAMPLES) == 30


def test_a_script_lost_during_a_pipeline_raises_an_error_and_the_write_can_be_repeated(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_log, requests = SampleLog(client), [LoggedRequest("a", (GROUP,), 60)]
    with monkeypatch.context() as patched:
        # as if another Redis took over between the check and the commands
        patched.setattr("redis.client.Pipeline.load_scripts", lambda _: None)
        client.script_flush()
        with pytest.raises(redis.RedisError):
            sample_log.append(requests)
    assert sample_log.append(requests) == 1
    assert sample_log.append(requests) == 0


def test_all_scripts_work_after_a_failover_to_an_empty_redis(tmp_path: Path) -> None:
    with RedisProcess(tmp_path / "first") as first, RedisProcess(tmp_path / "second") as second:
        socket = tmp_path / "redis.sock"
        socket.symlink_to(first.url.removeprefix("unix://"))
        with contextlib.closing(connect(f"unix://{socket}")) as client:
            jobs, sample_log = JobBoard(client), SampleLog(client)
            leases = LeaseBoard(client, most_leases=10, most_versions=10)
            request = LoggedRequest("a", (GROUP,), 60)

            def use() -> None:
                jobs.finish(jobs.create({}), "failed")
                assert sample_log.append([request]) == 1
                leases.create("a", "v000001", 60.0)

            use()
            socket.unlink()
            socket.symlink_to(second.url.removeprefix("unix://"))
            client.connection_pool.disconnect()
            use()  # the same objects, on a Redis that has seen no script


def test_a_call_sends_the_digest_of_the_script_and_not_its_text(client: redis.Redis) -> None:
    use_every_script(client, 1)
    client.config_resetstat()
    use_every_script(client, 2)
    calls = client.info("commandstats")
    assert "cmdstat_evalsha" in calls
    assert not {"cmdstat_eval", "cmdstat_script|load"} & set(calls)


def test_every_script_is_part_of_the_package_and_compiles(client: redis.Redis) -> None:
    project = tomllib.loads((Path(metarm.__file__).parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["metarm"]
    packaged = {path for pattern in patterns for path in Path(metarm.__file__).parent.glob(pattern)}
    scripts = sorted(HERE.glob("*.lua"))
    assert len(scripts) >= 9
    assert set(scripts) <= packaged
    for path in scripts:
        load_script(client, path.stem)
        client.script_load(path.read_text())
