"""Clients that score without a pause while versions change, and checks of their answers. Clients are unpinned,
pinned, or pinned under a lease."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx
import pytest

from metarm.store.versions import VersionStore, version_number
from tests.offline import TOLERANCE, OfflineModel
from tests.tiny import CORPUS

ITERATION = 30  # requests that a client sends under one lease
LEASE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`client` sent group number `group` at `sent`, pinned to `pinned` or unpinned (None)."""

    client: int
    group: int
    pinned: str | None
    sent: float
    received: float
    version: str
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class LeaseUse:
    """`client` sent `requests` under a lease of `version`. `loads_before` and `loads_after` are the server's
    load counts of that version before the first and after the last request."""

    client: int
    version: str
    requests: int
    loads_before: float
    loads_after: float


def random_group(rng: random.Random, responses: int) -> dict[str, Any]:
    words = " ".join(CORPUS).split()

    def text(most: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(1, most)))

    return {"prompt": text(10), "responses": [text(20) for _ in range(responses)]}


class Clients:
    """`count` threads that execute `run` while the block runs. The end of the block sets `stop`."""

    def __init__(self, count: int) -> None:
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self.run, args=(number,)) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def run(self, number: int) -> None:
        raise NotImplementedError


class Hammer(Clients):
    """`clients` threads that send requests to the servers in turn, as a load balancer does. Every third client
    pins one of the `pins`. With `leases` (one server only), half of these hold a lease on their version for
    ITERATION requests, renew it once, and then take the next lease."""

    def __init__(
        self, urls: Sequence[str], clients: int, pins: Sequence[str] = (), *, leases: bool = False
    ) -> None:
        super().__init__(clients)
        self._urls = urls
        self._pins = pins
        self._leases = leases
        rng = random.Random(5)
        self.groups = [random_group(rng, 2) for _ in range(24)]
        self.answers: list[Answer] = []
        self.lease_uses: list[LeaseUse] = []
        self.failures: list[str] = []

    def wait_for_more(self, count: int) -> None:
        """Wait until `count` more requests are answered."""
        wanted, deadline = len(self.answers) + count, time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, self.failures[:3]
            time.sleep(0.01)

    def run(self, number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(timeout=30) as http:
            while self._leases and number % 6 == 3 and not self.stop.is_set():
                self._ask_under_a_lease(http, number, rng)
            for url in itertools.cycle(self._urls):
                if self.stop.is_set():
                    return
                pinned = rng.choice(self._pins) if self._pins and number % 3 == 0 else None
                self._ask(http, url, number, rng.randrange(len(self.groups)), pinned)

    def _ask_under_a_lease(self, http: httpx.Client, number: int, rng: random.Random) -> None:
        (url,), version = self._urls, rng.choice(self._pins)
        made = http.post(f"{url}/leases", json={"version": version, "ttl_s": LEASE_S})
        if made.status_code != 201:
            self.failures.append(made.text)
            return
        before, lease = loads_of(http, url, version), f"{url}/leases/{made.json()['lease']}"
        for request in range(ITERATION):
            self._ask(http, url, number, rng.randrange(len(self.groups)), version)
            if request == ITERATION // 2:
                renewed = http.post(f"{lease}/renew", json={"ttl_s": LEASE_S})
                self.failures += [renewed.text] if renewed.status_code != 200 else []
        self.lease_uses.append(LeaseUse(number, version, ITERATION, before, loads_of(http, url, version)))
        released = http.delete(lease)
        self.failures += [released.text] if released.status_code != 200 else []

    def _ask(self, http: httpx.Client, url: str, number: int, group: int, pinned: str | None) -> None:
        body: dict[str, Any] = {"groups": [self.groups[group]], "log": False}
        sent = time.monotonic()
        try:
            response = http.post(f"{url}/score", json=body if pinned is None else {**body, "version": pinned})
        except httpx.TransportError as error:
            self.failures.append(repr(error))
            return
        received = time.monotonic()
        if response.status_code != 200:
            self.failures.append(response.text)
            return
        content = response.json()
        scores = content["groups"][0]["scores"]
        self.answers.append(Answer(number, group, pinned, sent, received, content["version"], scores))

    def longest_s(self) -> float:
        return max(answer.received - answer.sent for answer in self.answers)


def loads_of(http: httpx.Client, url: str, version: str) -> float:
    """The number of times that the server has loaded a version from disk."""
    name = f'rm_version_loads_total{{version="{version}"}}'
    lines = http.get(f"{url}/metrics").text.splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(name)), 0.0)


def assert_never_backwards(answers: Sequence[Answer]) -> None:
    """Assert that no unpinned request is scored by an older version than any answer received before it was
    sent, across all servers and clients. The versions must have been activated in ascending order."""
    unpinned = [answer for answer in answers if answer.pinned is None]
    arrivals = sorted(unpinned, key=lambda answer: answer.received)
    newest, arrived = 0, 0
    for answer in sorted(unpinned, key=lambda answer: answer.sent):
        while arrivals[arrived].received < answer.sent:
            newest = max(newest, version_number(arrivals[arrived].version))
            arrived += 1
        assert version_number(answer.version) >= newest, answer


def assert_scored_by_the_version_named(hammer: Hammer, store: VersionStore) -> None:
    """Assert that each score equals a plain forward of the version its answer names, and that pins are
    respected."""
    expected: dict[tuple[str, int], list[float]] = {}
    offline = {name: OfflineModel(store.path(name)) for name in store.names()}
    for answer in hammer.answers:
        assert answer.pinned in (None, answer.version)
        key = (answer.version, answer.group)
        if key not in expected:
            group = hammer.groups[answer.group]
            expected[key] = [offline[answer.version].score(group["prompt"], r) for r in group["responses"]]
        assert answer.scores == pytest.approx(expected[key], abs=TOLERANCE)
