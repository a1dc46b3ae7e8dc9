"""Two services on one store and one Redis cut over together, even if a process dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis

from metarm.errors import CutOverAbortedError
from metarm.shared.coordinator import HOLD_S, Coordinator
from metarm.shared.cut_over import CutOver, CutOverBoard
from metarm.store.versions import VersionStore
from tests.hammer import Hammer, assert_never_backwards, assert_scored_by_the_version_named
from tests.processes import BUSY_S, HttpProcess, Pair, RedisProcess, service, trainer, two_services, wait_until
from tests.scripted_server import ScriptedServer
from tests.store import publish
from tests.tiny import make_checkpoint

VERSIONS = 7
TRIES = 4


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions v000001 to v000007. The first is current."""
    folder = tmp_path_factory.mktemp("published")
    checkpoints = [make_checkpoint(folder / str(seed), "bert", seed=seed) for seed in range(3)]
    for number in range(VERSIONS):
        publish(folder, checkpoints[number % 3], activate=number == 0)
    return folder / "versions"


@pytest.fixture
def store(tmp_path: Path, published: Path) -> VersionStore:
    shutil.copytree(published, tmp_path / "versions", symlinks=True)
    return VersionStore(tmp_path / "versions")


@pytest.fixture
def pair(tmp_path: Path, store: VersionStore, redis_process: RedisProcess) -> Iterator[Pair]:
    """Two ready services."""
    assert store.current() == "v000001"
    with two_services(tmp_path, redis_process.url) as services:
        yield services


@pytest.fixture
def third(redis_process: RedisProcess, store: VersionStore) -> Iterator[ScriptedServer]:
    """A third server. The others wait until the test lets it report that it is ready."""
    with redis_process.client() as client, ScriptedServer("third", client, store, says="") as server:
        server.renews = True
        yield server


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@dataclass(frozen=True, slots=True)
class Scene:
    """Two services, and a third server that controls the progress of a cut-over."""

    a: HttpProcess
    b: HttpProcess
    third: ScriptedServer
    redis: RedisProcess
    background: ThreadPoolExecutor

    def cut_over_until(self, both: str) -> Future[httpx.Response]:
        """Request v000002 from `a`, and wait until both services report `both`."""
        asked = self.background.submit(activate, self.a, "v000002")
        wait_for_cut_over(self.redis, lambda state: both_report(state, both))
        return asked

    def hold(self) -> Future[httpx.Response]:
        """Request v000002 from `a`, and wait until both services hold. The third server does not hold."""
        self.third.says, self.third.holds = "ready", False
        return self.cut_over_until("held")


@pytest.fixture
def scene(
    pair: Pair, third: ScriptedServer, redis_process: RedisProcess, background: ThreadPoolExecutor
) -> Scene:
    return Scene(*pair, third, redis_process, background)


def activate(process: HttpProcess, version: str) -> httpx.Response:
    """Activate a version. Retry on Retry-After: on a busy machine a server may hold too late."""
    with httpx.Client(base_url=process.url, timeout=300) as http:
        for _ in range(TRIES):
            answer = http.post(f"/versions/{version}/activate")
            if "retry-after" not in answer.headers:
                break
            time.sleep(int(answer.headers["retry-after"]))
    return answer


def promote(coordinator: Coordinator, version: str) -> list[str]:
    """Promote a version with the same retries."""
    for _ in range(TRIES):
        try:
            return coordinator.promote(version)
        except CutOverAbortedError as error:
            if error.retry_after_s is None:
                raise
            time.sleep(error.retry_after_s)
    raise AssertionError(f"{version} was not promoted in {TRIES} tries")


def scored_by(process: HttpProcess) -> str:
    body = {"groups": [{"prompt": "What is it?", "responses": ["forty two"]}], "log": False}
    answer = process.http.post("/score", json=body)
    assert answer.status_code == 200, answer.text
    version: str = answer.json()["version"]
    return version


def wait_for_cut_over(redis_process: RedisProcess, condition: Callable[[CutOver], bool]) -> CutOver:
    found: list[CutOver] = []
    with redis_process.client() as client:
        board = CutOverBoard(client)

        def met() -> bool:
            state = board.state()
            if state is not None and condition(state):
                found.append(state)
            return bool(found)

        wait_until(met)
    return found[0]


def both_report(state: CutOver, said: str) -> bool:
    """Return whether both services report `said`, regardless of the third server."""
    return [state.servers[name] for name in state.servers if name != "third"] == [said, said]


def test_no_client_sees_an_older_version_after_a_newer_one_while_two_servers_cut_over(
    pair: Pair, store: VersionStore, quick: redis.Redis
) -> None:
    a, b = pair
    servers = a.http.get("/versions").json()["servers"]
    assert sorted(server["url"] for server in servers) == sorted([a.url, b.url])
    assert {server["pid"] for server in servers} == {a.pid, b.pid}
    assert all((server["serving"], server["loaded"]) == ("v000001", ["v000001"]) for server in servers)
    with Hammer([a.url, b.url], clients=12, pins=["v000001", "v000002"]) as hammer:
        hammer.wait_for_more(50)
        for number, by in enumerate([a, b, a, b], start=2):
            assert activate(by, f"v00000{number}").json()["serving"] == f"v00000{number}"
            hammer.wait_for_more(50)
        trainers = Coordinator(quick, store, name="as the trainer", prepare_s=60)
        for version in ("v000006", "v000007"):
            assert len(promote(trainers, version)) == 2
            hammer.wait_for_more(50)
    assert hammer.failures == []
    unpinned = [answer for answer in hammer.answers if answer.pinned is None]
    assert {answer.version for answer in unpinned} == set(store.names())
    assert_never_backwards(hammer.answers)
    assert_scored_by_the_version_named(hammer, store)


def test_a_server_killed_while_loading_does_not_prevent_the_others_from_cutting_over(scene: Scene) -> None:
    a, b = scene.a, scene.b
    asked = scene.cut_over_until("ready")
    b.kill(signal.SIGKILL)
    b.wait()
    assert scored_by(a) == "v000001"
    scene.third.says = "ready"
    assert asked.result().status_code == 200
    assert scored_by(a) == "v000002"
    b.start()
    b.wait_ready()
    assert scored_by(b) == "v000002"


def test_a_server_that_dies_during_the_hold_delays_the_others_by_at_most_the_hold(scene: Scene) -> None:
    a, b = scene.a, scene.b
    with Hammer([a.url], clients=4) as hammer:
        asked = scene.cut_over_until("ready")
        first = wait_for_cut_over(scene.redis, lambda state: state.running)
        b.kill(signal.SIGSTOP)  # it is prepared but cannot hold
        scene.third.says = "ready"
        wait_for_cut_over(scene.redis, lambda state: state.phase == "abort" or state.id != first.id)
        b.kill(signal.SIGKILL)
        assert scored_by(a) == "v000001"
        assert asked.result().json() == {"current": "v000002", "serving": "v000002"}  # once b is known dead
        hammer.wait_for_more(20)
    assert hammer.failures == []
    assert hammer.longest_s() < HOLD_S + BUSY_S
    assert_never_backwards(hammer.answers)


def test_servers_keep_the_old_version_if_the_coordinator_dies_in_the_hold_and_cut_over_on_retry(
    scene: Scene,
) -> None:
    a, b = scene.a, scene.b
    asked = scene.hold()
    waiting = scene.background.submit(scored_by, b)
    a.kill(signal.SIGKILL)
    started = time.monotonic()
    assert waiting.result() == "v000001"
    assert time.monotonic() - started < HOLD_S + BUSY_S
    with pytest.raises(httpx.TransportError):
        asked.result()
    scene.third.holds = True
    assert activate(b, "v000002").status_code == 200
    assert scored_by(b) == "v000002"


def test_servers_agree_on_one_version_after_redis_stops_during_the_hold(scene: Scene) -> None:
    a, b = scene.a, scene.b
    asked = scene.hold()
    scene.redis.kill(signal.SIGSTOP)
    started = time.monotonic()
    assert list(scene.background.map(scored_by, (a, b))) == ["v000001", "v000001"]
    assert time.monotonic() - started < HOLD_S + BUSY_S
    # without Redis each server swaps alone
    assert asked.result().json() == {"current": "v000002", "serving": "v000002"}
    wait_until(lambda: scored_by(b) == "v000002")
    listed = b.http.get("/versions").json()
    assert listed["servers"] is None
    assert "Redis does not answer" in listed["servers_unknown"]
    assert listed["current"] == "v000002"
    scene.redis.kill(signal.SIGCONT)
    scene.third.holds = True
    wait_until(lambda: len(a.http.get("/versions").json()["servers"] or []) == 3)
    assert activate(b, "v000003").status_code == 200
    assert [scored_by(process) for process in (a, b)] == ["v000003", "v000003"]


def test_a_server_that_starts_during_a_cut_over_answers_only_after_it_with_the_new_version(
    tmp_path: Path,
    third: ScriptedServer,
    redis_process: RedisProcess,
    background: ThreadPoolExecutor,
) -> None:
    patient = {"METARM_CUT_OVER_PREPARE_S": "240"}  # a service starts during the cut-over
    with service(tmp_path, redis_process.url, name="a", **patient) as a:
        a.wait_ready()
        asked = background.submit(activate, a, "v000002")
        wait_for_cut_over(redis_process, lambda state: state.servers_in("ready") != [])
        with service(tmp_path, redis_process.url, name="b") as b:
            b.wait_until(lambda: "waits for a cut-over to end" in b.output)
            time.sleep(0.3)
            assert not b.answers("/health")
            third.says = "ready"
            assert asked.result().status_code == 200
            b.wait_ready()
            assert scored_by(b) == "v000002"


def test_a_version_that_one_server_refuses_aborts_the_cut_over_on_all(
    pair: Pair, third: ScriptedServer
) -> None:
    a, b = pair
    third.says = "refused: v000002: not enough memory"
    answer = activate(a, "v000002")
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["code"] == "cut_over_aborted"
    assert error["details"]["servers"] == {"third": "v000002: not enough memory"}
    assert [scored_by(process) for process in pair] == ["v000001", "v000001"]
    alone = a.http.post("/versions/v000002/activate", json={"together": False})
    assert alone.json() == {"current": "v000002", "serving": "v000002"}
    wait_until(lambda: scored_by(b) == "v000002")


def read_only(folder: Path) -> list[str]:
    """A command prefix that mounts `folder` read-only for the command it runs."""
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = ["unshare", "--mount", *root, "sh", "-c", script, str(folder)]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow mounts in tests")
    return command


def test_a_service_with_a_read_only_store_delegates_activation_to_the_trainer(
    tmp_path: Path, store: VersionStore, redis_process: RedisProcess
) -> None:
    mounted = read_only(store.root)
    with two_services(tmp_path, redis_process.url, prefix=mounted) as (a, b):
        refused = activate(a, "v000002")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "trainer_unavailable"
        assert [scored_by(process) for process in (a, b)] == ["v000001", "v000001"]
        with trainer(tmp_path, redis_process.url) as working, redis_process.client() as client:
            working.wait_until(lambda: client.exists("metarm:trainer") == 1)
            working.wait_until(lambda: activate(a, "v000002").status_code == 200)
            assert [scored_by(process) for process in (a, b)] == ["v000002", "v000002"]
            missing = activate(a, "v000009")
            assert missing.status_code == 409
