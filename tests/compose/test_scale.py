"""The profile `scale`: several services on one store behind the proxy, which start and stop under traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from metarm import ClientError, RewardClient
from metarm.store.versions import version_number
from tests.compose.stack import Stack
from tests.demo_groups import demo_groups
from tests.hammer import Clients

pytestmark = pytest.mark.timeout(2400)

REPLICAS = 3
WORKERS = 3


@pytest.fixture(scope="module")
def proxied(thorough: None, running: Stack) -> Iterator[httpx.Client]:
    """A client of three services behind the proxy; afterwards one service with its own port remains."""
    scale(running, REPLICAS)
    url = f"http://127.0.0.1:{running.proxy_port}"
    with httpx.Client(base_url=url, timeout=60.0) as http:
        running.wait_until(lambda: len(servers(http)) == REPLICAS, "not all services are registered")
        yield http
    running.compose("--profile", "scale", "rm", "--stop", "--force", "proxy")
    running.compose("up", "--detach", "--scale", "service=1")
    running.wait_ready()


def scale(stack: Stack, count: int) -> None:
    arguments = ("--profile", "scale", "up", "--detach", "--scale", f"service={count}")
    stack.compose(*arguments, METARM_PORT="0")


def servers(http: httpx.Client) -> list[dict[str, Any]]:
    """The registered services, from one of them; empty while none answers."""
    try:
        answer = http.get("/versions")
    except httpx.TransportError:
        return []
    return list(answer.json()["servers"]) if answer.status_code == 200 else []


class Workers(Clients):
    """RL workers that score groups through the proxy, one after another, while the block runs."""

    def __init__(self, http: httpx.Client) -> None:
        super().__init__(WORKERS)
        self._url = str(http.base_url)
        self.versions: list[str] = []  # of each answer, in the order of arrival
        self.failures: list[str] = []

    def answered(self, count: int) -> bool:
        return len(self.versions) >= count

    def run(self, number: int) -> None:  # noqa: ARG002 (all workers are alike)
        with RewardClient(self._url) as client:
            while not self.stop.is_set():
                try:
                    self.versions.append(client.score(demo_groups(2)).version)
                except ClientError as error:
                    self.failures.append(str(error))


def test_three_services_share_the_store_and_the_traffic(running: Stack, proxied: httpx.Client) -> None:
    assert len(running.containers("service")) == REPLICAS
    assert len({server["id"] for server in servers(proxied)}) == REPLICAS
    assert len({server["serving"] for server in servers(proxied)}) == 1

    def scored_by_each() -> bool:
        proxied.post("/score", json={"groups": demo_groups(1), "log": False})
        return all(tokens_scored(running, container) > 0 for container in running.containers("service"))

    running.wait_until(scored_by_each, "a service gets no requests")


def test_all_services_cut_over_together_behind_the_proxy(running: Stack, proxied: httpx.Client) -> None:
    older, newer = two_versions(running, proxied)
    proxied.post(f"/versions/{older}/activate").raise_for_status()
    with Workers(proxied) as workers:
        running.wait_until(lambda: workers.answered(10), "nothing is answered")
        proxied.post(f"/versions/{newer}/activate").raise_for_status()
        done = len(workers.versions)
        running.wait_until(lambda: workers.answered(done + 30), "nothing is answered")
    assert workers.failures == []
    assert set(workers.versions[:10]) == {older}
    assert set(workers.versions[-10:]) == {newer}
    # each server reports its own version, at slightly different times
    running.wait_until(
        lambda: {one["serving"] for one in servers(proxied)} == {newer}, "a server has not cut over", 5.0
    )


def test_replicas_are_killed_and_start_again_without_a_failed_request(
    running: Stack, proxied: httpx.Client
) -> None:
    before = settled(running.logged)
    with Workers(proxied) as workers:
        running.wait_until(lambda: workers.answered(10), "nothing is answered")
        running.engine.docker("kill", running.containers("service")[0])
        running.wait_until(
            lambda: len(servers(proxied)) == REPLICAS - 1, "the killed server is still registered"
        )
        done = len(workers.versions)
        running.wait_until(lambda: workers.answered(done + 30), "nothing is answered")
        scale(running, REPLICAS)  # starts it again, possibly under another address
        running.wait_until(lambda: len(servers(proxied)) == REPLICAS, "the killed server does not start again")
        scale(running, 2)  # stops one cleanly
        running.wait_until(lambda: len(servers(proxied)) == 2, "three servers are still registered")
        done = len(workers.versions)
        running.wait_until(lambda: workers.answered(done + 30), "nothing is answered")
    assert workers.failures == []
    assert len(set(workers.versions)) == 1
    # a SIGKILL may lose the groups of the last milliseconds; a request that was sent again counts once
    most = before + 2 * len(workers.versions)
    running.wait_until(
        lambda: most - 2 * WORKERS <= running.logged() <= most, "samples were lost or logged twice"
    )


def settled(read: Callable[[], int]) -> int:
    """The count, once it has not changed for a second."""
    seen, now = -1, read()
    while seen != now:
        time.sleep(1.0)
        seen, now = now, read()
    return now


def two_versions(stack: Stack, http: httpx.Client) -> tuple[str, str]:
    """The oldest and the newest published version; if there is only one, a retrain makes another."""
    names = published(http)
    if len(names) == 1:
        with RewardClient(str(http.base_url)) as client:
            client.score(demo_groups(20))
            stack.wait_until(lambda: stack.logged() >= 20, "samples are not logged")
            state = client.wait_for_job(client.retrain()["job"], timeout_s=400)
        assert state["status"] == "published", state
        names = published(http)
    return names[0], names[-1]


def published(http: httpx.Client) -> list[str]:
    entries = http.get("/versions").json()["versions"]
    return sorted((e["name"] for e in entries if e["status"] == "published"), key=version_number)


def tokens_scored(stack: Stack, container: str) -> float:
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
    text = stack.engine.docker("exec", container, "python3", "-c", ask)
    return sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("rm_tokens_scored_total{")
    )
