"""`metarm up` on a store that holds a tiny version: it starts, restarts and stops its child processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from metarm.runtime import process_environment, processes
from metarm.runtime.processes import free_port
from metarm.shared.presence import TrainerPresence
from tests.metarm.runtime.test_addresses import needs_ipv6
from tests.processes import HttpProcess, Process, RedisProcess, system
from tests.store import publish
from tests.tiny import Kind

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[Kind], Path]) -> Path:
    folder = tmp_path_factory.mktemp("up")
    publish(folder, checkpoint("bert"))
    return folder


@pytest.fixture
def fresh(tmp_path: Path, checkpoint: Callable[[Kind], Path]) -> Path:
    """A data directory of one test, whose launcher's output is its own."""
    publish(tmp_path / "fresh", checkpoint("bert"))
    return tmp_path / "fresh"


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[HttpProcess]:
    given = {"METARM_TUNE": "false", "METARM_ADMIN_KEYS": "hush", "METARM_RETRAN": "auto"}
    with system(data_dir, **given) as process:
        process.wait_until(lambda: "ready to score. Try" in process.output, 240)
        yield process


def children(process: HttpProcess) -> dict[str, psutil.Process]:
    """The live child processes, keyed by the module or program that they run."""
    found = psutil.Process(process.pid).children()
    return {line[2] if line[1] == "-m" else "redis": child for child in found if (line := child.cmdline())}


def test_the_launcher_prints_the_address_of_each_program(running: HttpProcess, data_dir: Path) -> None:
    assert f"service   {running.url}" in running.output
    assert f"unix://{data_dir}/redis/redis.sock (embedded Valkey" in running.output
    assert f"curl -s {running.url}/score" in running.output


def test_the_printed_command_works_once_its_key_is_set(running: HttpProcess) -> None:
    assert "once the variable KEY holds one of METARM_ADMIN_KEYS" in running.output
    (command,) = [line for line in running.output.splitlines() if line.startswith("  curl")]
    environment = {**os.environ, "KEY": "hush"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["version"] == "v000001"
    assert "hush" not in running.output


def test_the_trainer_is_announced_once_it_takes_jobs(running: HttpProcess) -> None:
    said = "metarm: the trainer is ready: POST /retrain"
    running.wait_until(lambda: said in running.output, 240)
    assert running.output.index("ready to score") < running.output.index(said)
    answer = running.http.post("/retrain", headers={"authorization": "Bearer hush"})
    assert answer.json()["error"]["code"] == "not_enough_data"
    assert running.output.count("the trainer is ready") == 1


def test_a_misspelt_variable_is_named_by_the_launcher_alone(running: HttpProcess) -> None:
    running.wait_until(lambda: "the trainer is ready" in running.output, 240)
    assert running.output.count("METARM_RETRAN in the environment is no setting") == 1


def test_each_child_has_its_own_process_group_in_the_launchers_session(running: HttpProcess) -> None:
    running.wait_until(lambda: children(running).keys() == {"service", "trainer", "redis"})
    pids = [child.pid for child in children(running).values()]
    assert [os.getpgid(pid) for pid in pids] == pids
    assert {os.getsid(pid) for pid in pids} == {os.getsid(running.pid)}


def test_a_second_launcher_on_the_same_data_directory_or_port_exits_with_status_78(
    running: HttpProcess, data_dir: Path, tmp_path: Path
) -> None:
    with system(data_dir) as second:
        assert second.wait() == 78
        assert "another `metarm up` is running" in second.output
    with system(tmp_path / "other", METARM_PORT=str(running.port)) as other:
        assert other.wait() == 78
        assert f"cannot listen on 127.0.0.1:{running.port}" in other.output


def test_a_child_process_that_dies_is_restarted(running: HttpProcess) -> None:
    killed = children(running)["service"]
    killed.kill()
    running.wait_until(lambda: "service ended (signal 9); restart in 0.5 s" in running.output)
    running.wait_until(
        lambda: (now := children(running).get("service")) is not None and now.pid != killed.pid, 60
    )


def test_a_signal_stops_all_processes_in_order(running: HttpProcess) -> None:
    started = list(children(running).values())
    os.killpg(running.pid, signal.SIGINT)  # like Ctrl-C in a terminal
    assert running.wait(120) == 0
    assert running.output.rstrip().endswith("metarm: stopped")
    assert "metarm: stopping: service, trainer, Redis" in running.output
    assert not [child for child in started if child.is_running()]


@needs_ipv6
def test_the_launcher_serves_on_ipv6(data_dir: Path, running: HttpProcess) -> None:
    assert not running.running
    with system(data_dir, METARM_HOST="::1", METARM_TUNE="false") as process:
        assert process.url.startswith("http://[::1]:")
        process.wait_until(lambda: f"curl -s '{process.url}/score'" in process.output, 240)
        assert f"service   {process.url}" in process.output
        assert process.answers("/ready")
        (server,) = process.http.get("/versions").json()["servers"]
        assert server["url"] == process.url


@pytest.mark.parametrize("name", ["METARM_SCORE_KEYS", "METARM_ADMIN_KEYS"])
def test_a_key_that_no_client_can_send_stops_the_launcher_before_it_starts_anything(
    tmp_path: Path, name: str
) -> None:
    with system(tmp_path, **{name: '[""]'}) as process:
        assert process.wait(240) == 78
        (line,) = process.output.splitlines()
        assert f"a key of {name} is empty" in line


@pytest.mark.parametrize("taken", [".", "redis"])
def test_a_data_folder_that_cannot_be_made_stops_the_launcher_with_status_78(
    tmp_path: Path, taken: str
) -> None:
    if taken != ".":
        (tmp_path / "data").mkdir()
    (tmp_path / "data" / taken).resolve().write_text("")
    environment = {"METARM_DATA_DIR": str(tmp_path / "data"), "METARM_PORT": str(free_port())}
    with Process([sys.executable, "-m", "metarm", "up"], tmp_path / "output.txt", environment) as process:
        assert process.wait() == 78
        assert str(tmp_path / "data") in process.output
        assert "Traceback" not in process.output


def test_a_setting_that_contradicts_the_store_stops_the_launcher_with_status_78(
    data_dir: Path, running: HttpProcess
) -> None:
    assert not running.running
    with system(data_dir, METARM_MODEL="/somewhere/else", METARM_TUNE="false") as other:
        assert other.wait(240) == 78
        assert "holds versions that began with the model" in other.output
        assert "leave METARM_MODEL unset" in other.output
        assert "trainer ended (status 78)" not in other.output, "it is refused before anything starts"


def test_a_trainer_without_preferences_is_announced_with_the_reason(
    fresh: Path, running: HttpProcess, tmp_path: Path
) -> None:
    assert not running.running
    (tmp_path / "pairs.jsonl").write_text('{"prompt": bad\n')
    with system(fresh, METARM_PREFERENCES=str(tmp_path / "pairs.jsonl"), METARM_TUNE="false") as other:
        other.wait_until(lambda: "the trainer is ready, but every run will fail" in other.output, 240)
        (line,) = [line for line in other.output.splitlines() if "every run will fail" in line]
        assert "pairs.jsonl, line 1: " in line


def test_another_trainer_on_the_same_redis_is_announced_as_such(
    fresh: Path, running: HttpProcess, redis_process: RedisProcess, redis_client: redis.Redis
) -> None:
    assert not running.running
    TrainerPresence(redis_client).hold("elsewhere:1", {"state": "ready"}, 600_000)
    with system(fresh, REDIS_URL=redis_process.url, METARM_TUNE="false") as other:
        other.wait_until(lambda: "another trainer (elsewhere:1) does the runs" in other.output, 240)
        TrainerPresence(redis_client).release("elsewhere:1")
        other.wait_until(lambda: "metarm: the trainer is ready" in other.output, 240)
        assert other.output.count("another trainer") == 1


def test_a_launcher_whose_output_nobody_reads_stops_its_children(
    fresh: Path, running: HttpProcess, tmp_path: Path
) -> None:
    assert not running.running
    command = [sys.executable, "-m", "metarm", "up"]
    environment = {"METARM_DATA_DIR": str(fresh), "METARM_PORT": str(free_port()), "METARM_TUNE": "false"}
    with processes.Process(
        command,
        tmp_path / "errors.txt",
        {**os.environ, **process_environment.REQUIRED, **environment},
        piped=True,
    ) as process:
        process.stdout.readline()
        started = psutil.Process(process.pid).children()
        process.stdout.close()
        assert process.wait(240) == 141
        assert "Traceback" not in process.output
    assert started
    assert not [child for child in started if child.is_running()]
