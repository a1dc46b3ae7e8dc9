"""`docker compose up` on an engine: the first model, a retrain and its swap, and kills of each container."""

from __future__ import annotations

from typing import Any

import pytest

from metarm import RewardClient
from tests.compose.stack import Stack
from tests.demo_groups import demo_groups

pytestmark = pytest.mark.timeout(2400)

GROUPS = 20


def score(stack: Stack, count: int = GROUPS) -> str:
    """Score `count` groups, wait until they are logged, and return the version that scored them."""
    before = stack.logged()
    with RewardClient(str(stack.http.base_url)) as client:
        version = client.score(demo_groups(count)).version
    stack.wait_until(lambda: stack.logged() == before + count, f"{count} more groups are not in the log")
    return version


def retrain(stack: Stack, **options: Any) -> dict[str, Any]:
    with RewardClient(str(stack.http.base_url)) as client:
        return client.wait_for_job(client.retrain(**options)["job"], timeout_s=400)


def version_of(stack: Stack) -> str:
    return str((stack.ready() or {})["version"])


def activates(stack: Stack, version: str) -> bool:
    """Whether an activation succeeds: the service only reads the versions, so the trainer has to write."""
    return stack.http.post(f"/versions/{version}/activate").status_code == 200


def test_the_first_start_makes_the_demo_model_and_logs_it(running: Stack) -> None:
    assert "no version is current" in running.first_logs["service"]
    said = running.first_logs["trainer"]
    assert (
        "packaged MiniLM-L6-v2 lacks classifier.bias, classifier.weight: initialised at random, fine-tuned now"
        in said
    )
    assert "published v000001 (bootstrap)" in said
    manifest = running.http.get("/versions/v000001").json()
    assert manifest["method"] == "bootstrap"
    assert manifest["metrics"]["steps"] == 8, "METARM_BOOTSTRAP_PAIRS did not reach the trainer"


def test_the_image_has_the_page_and_its_charts(running: Stack) -> None:
    assert "page/main.js" in running.http.get("/").text
    charts = running.http.get("/page/plotly.min.js")
    assert charts.status_code == 200
    assert len(charts.content) > 1_000_000


@pytest.mark.parametrize("service", ["redis", "service", "trainer"])
def test_a_container_is_healthy_and_bounded(running: Stack, service: str) -> None:
    running.wait_until(lambda: running.healthy(service), f"{service} is not healthy")
    host = running.container(service)["HostConfig"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Memory"] > 0
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}
    assert host["ReadonlyRootfs"]
    assert "no-new-privileges:true" in host["SecurityOpt"]


@pytest.mark.parametrize("service", ["service", "trainer"])
def test_our_processes_have_no_rights_and_no_compiler(running: Stack, service: str) -> None:
    assert running.execute(service, "id", "-u").strip() == "10001"
    status = running.execute(service, "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    listing = "for tool in gcc cc make; do command -v $tool; done; ls /opt/venv/bin /opt/metarm/bin"
    tools = running.execute(service, "sh", "-c", listing).split()
    assert "metarm" in tools
    assert {"gcc", "cc", "make", "pip", "pip3"}.isdisjoint(name.rsplit("/")[-1] for name in tools)


@pytest.mark.parametrize(
    ("service", "folder", "may"),
    [
        ("service", "/data/versions", False),
        ("service", "/data", True),
        ("service", "/opt/metarm", False),
        ("trainer", "/data/versions", True),
        ("trainer", "/preferences", False),
        ("trainer", "/models", False),
        ("trainer", "/opt/metarm", False),
    ],
)
def test_a_container_can_write_only_to_its_own_folders(
    running: Stack, service: str, folder: str, may: bool
) -> None:
    tried = f"touch {folder}/.tried 2>/dev/null && rm {folder}/.tried && echo written || echo refused"
    assert running.execute(service, "sh", "-c", tried).strip() == ("written" if may else "refused")


def test_only_the_service_is_published_and_only_on_the_loopback(running: Stack) -> None:
    ports = {
        name: running.container(name)["NetworkSettings"]["Ports"] for name in ("redis", "service", "trainer")
    }
    bound = [binding for of_one in ports.values() for port in of_one.values() for binding in port or []]
    assert bound == [{"HostIp": "127.0.0.1", "HostPort": str(running.port)}]


def test_the_measured_forward_plan_is_kept_beside_the_read_only_versions(running: Stack) -> None:
    assert '"workers"' in running.execute("service", "cat", "/data/tuning.json")


def test_scored_samples_become_the_current_version(running: Stack) -> None:
    parent = score(running)
    job = retrain(running)
    assert job["status"] == "published", job
    assert job["progress"]["steps"] == 2, "METARM_STEPS did not reach the trainer"
    assert job["samples"]["used"] >= GROUPS
    running.wait_until(lambda: version_of(running) == job["candidate"], "the new version does not serve")
    manifest = running.http.get(f"/versions/{job['candidate']}").json()
    assert manifest["parent"] == parent
    assert score(running) == job["candidate"]


def test_the_trainer_activates_and_labels_for_a_service_that_only_reads(running: Stack) -> None:
    newest = version_of(running)
    for version in ("v000001", newest):
        assert running.http.post(f"/versions/{version}/activate").json() == {
            "current": version,
            "serving": version,
        }
    assert running.http.put("/labels/stable", json={"version": "v000001"}).status_code == 200
    answer = running.http.post("/score", json={"groups": demo_groups(1), "version": "stable", "log": False})
    assert answer.json()["version"] == "v000001"
    assert running.http.delete("/labels/stable").status_code < 300


@pytest.mark.parametrize("service", ["redis", "service", "trainer"])
@pytest.mark.parametrize("way", ["kill", "crash"])
def test_a_killed_container_starts_again_and_nothing_is_lost(running: Stack, service: str, way: str) -> None:
    version, logged = version_of(running), running.logged()
    answers = running.http.post("/score", json={"groups": demo_groups(4), "log": False}).json()["groups"]
    started = running.container(service)["State"]["StartedAt"]
    if way == "kill":
        running.kill(service)
    else:
        running.crash(service)  # the restart policy brings it back
    if service != "service":
        while_dead = running.http.post("/score", json={"groups": demo_groups(8)})
        assert while_dead.json()["version"] == version, "scoring needs only the service"
        logged += 8
    if way == "kill":
        running.compose("up", "--detach")
    running.wait_until(lambda: running.started_since(service, started), f"{service} does not start again")
    running.wait_ready()
    assert version_of(running) == version
    running.wait_until(lambda: activates(running, version), "the trainer does not write")
    running.wait_until(lambda: running.logged() == logged, f"the log does not hold {logged} groups")
    again = running.http.post("/score", json={"groups": demo_groups(4), "log": False}).json()["groups"]
    assert [group["scores"] for group in again] == [group["scores"] for group in answers]
    assert score(running) == version


def test_a_trainer_killed_in_a_run_finishes_it_with_the_same_samples(running: Stack) -> None:
    score(running)
    with RewardClient(str(running.http.base_url)) as client:
        trainer = running.container("trainer")["Id"]
        job = client.retrain(steps=24)["job"]
        running.wait_until(lambda: client.job(job)["progress"]["step"] >= 1, "the run makes no step")
        running.engine.docker("pause", trainer)  # at once, before the small run ends
        running.crash("trainer")
        running.engine.docker("unpause", trainer)
        state = client.wait_for_job(job, timeout_s=400)
    assert state["status"] == "published", state
    assert state["attempts"] == 2
    assert state["samples"]["used"] >= GROUPS
    running.wait_until(lambda: version_of(running) == state["candidate"], "the new version does not serve")


@pytest.mark.parametrize("service", ["service", "trainer"])
def test_docker_stop_shuts_a_process_down_cleanly(running: Stack, service: str) -> None:
    """By SIGTERM, not by the SIGKILL that follows (status 137): the groups answered just before are logged."""
    logged = running.logged()
    with RewardClient(str(running.http.base_url)) as client:
        client.score(demo_groups(GROUPS))
    running.compose("stop", service)
    assert running.container(service)["State"]["ExitCode"] == 0
    running.wait_until(lambda: running.logged() == logged + GROUPS, "samples were lost")
    running.compose("up", "--detach")
    running.wait_ready()


def test_a_service_that_is_stopped_while_it_starts_ends_cleanly(running: Stack) -> None:
    running.compose("stop", "service")
    running.compose("start", "service")
    running.compose("stop", "--timeout", "60", "service")
    assert running.container("service")["State"]["ExitCode"] == 0
    running.compose("up", "--detach")
    running.wait_ready()


def test_down_and_up_again_keeps_versions_samples_and_measurements(running: Stack) -> None:
    version, logged = version_of(running), running.logged()
    names = [entry["name"] for entry in running.http.get("/versions").json()["versions"]]
    tuning = running.execute("service", "cat", "/data/tuning.json")
    running.compose("down")
    running.compose("up", "--detach")
    running.wait_ready()
    assert version_of(running) == version
    assert [entry["name"] for entry in running.http.get("/versions").json()["versions"]] == names
    assert running.logged() == logged
    assert running.execute("service", "cat", "/data/tuning.json") == tuning


def test_without_keys_a_service_refuses_to_be_published_to_other_machines(running: Stack) -> None:
    command = ["run", "--rm", "--no-deps", "-e", "METARM_PUBLISHED_ON=0.0.0.0", "service"]
    with pytest.raises(AssertionError, match=r"0\.0\.0\.0 can be reached from other machines"):
        running.compose(*command)
