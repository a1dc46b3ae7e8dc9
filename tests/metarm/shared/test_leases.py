"""Leases in a real Redis: limits, expiry by the clock of Redis, and released as opposed to lost leases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from metarm.errors import TooManyLeasesError
from metarm.shared.keys import LEASES
from metarm.shared.leases import LeaseBoard
from tests.processes import BUSY_S

ROUNDED_S = 0.001  # the clock of Redis is read in milliseconds


def board(client: redis.Redis, leases: int = 10, versions: int = 4) -> LeaseBoard:
    return LeaseBoard(client, most_leases=leases, most_versions=versions)


def test_a_lease_is_listed_with_its_remaining_time(redis_client: redis.Redis) -> None:
    leases = board(redis_client)
    began = time.monotonic()
    leases.create("a", "v000001", 60.0)
    leases.create("b", "v000002", 5.5)
    listed = leases.all()
    took_s = time.monotonic() - began
    assert {name: entry.version for name, entry in listed.items()} == {"a": "v000001", "b": "v000002"}
    assert 60 - ROUNDED_S - took_s < listed["a"].left_s <= 60
    assert 5.5 - ROUNDED_S - took_s < listed["b"].left_s <= 5.5


def test_a_lease_expires_and_the_key_expires_with_the_last_lease(redis_client: redis.Redis) -> None:
    leases = board(redis_client)
    leases.create("a", "v000001", 0.1)
    leases.create("b", "v000001", 60.0)
    time.sleep(0.15)
    assert list(leases.all()) == ["b"]
    assert leases.renew("a", 60.0) is None
    assert leases.release("a") is False
    assert (
        0 < redis_client.pttl(LEASES) <= 61_000
    )  # slightly longer than the last lease, so that the key expires without a reader
    redis_client.delete(LEASES)
    leases.create("c", "v000001", 0.1)
    time.sleep(0.15)
    assert leases.all() == {}
    assert not redis_client.exists(LEASES)


def test_a_renewal_extends_a_lease_and_never_shortens_it(redis_client: redis.Redis) -> None:
    leases = board(redis_client)
    leases.create("a", "v000001", 5.0)
    renewed = leases.renew("a", 60.0)
    assert renewed is not None
    assert renewed.version == "v000001"
    assert 60 - BUSY_S < renewed.left_s <= 60
    again = leases.renew("a", 1.0)
    assert again is not None
    assert again.left_s > 60 - 2 * BUSY_S
    assert leases.renew("b", 60.0) is None


def test_a_released_lease_is_distinguished_from_one_that_redis_has_lost(redis_client: redis.Redis) -> None:
    leases = board(redis_client)
    leases.create("a", "v000001", 60.0)
    assert leases.release("a")
    assert not leases.release("a")
    assert leases.renew("a", 60.0) is None
    (released,) = leases.all().values()
    assert released.version is None
    leases.restore("a", "v000001", 60.0)  # released: not restored
    leases.restore("b", "v000002", 60.0)  # lost: restored
    assert {name: entry.version for name, entry in leases.all().items()} == {"a": None, "b": "v000002"}


def test_the_number_of_leases_and_of_leased_versions_is_limited(redis_client: redis.Redis) -> None:
    leases = board(redis_client, leases=3, versions=2)
    leases.create("a", "v000001", 60.0)
    leases.create("b", "v000002", 60.0)
    with pytest.raises(TooManyLeasesError, match="2 versions"):
        leases.create("c", "v000003", 60.0)
    leases.create("c", "v000002", 60.0)
    with pytest.raises(TooManyLeasesError, match="3 leases"):
        leases.create("d", "v000001", 60.0)
    leases.release("a")
    leases.create("d", "v000003", 60.0)
    assert len([entry for entry in leases.all().values() if entry.version]) == 3


def test_concurrent_clients_do_not_exceed_the_limit_on_leases(redis_client: redis.Redis) -> None:
    leases = board(redis_client, leases=5)

    def create(number: int) -> bool:
        try:
            leases.create(f"lease-{number}", "v000001", 60.0)
        except TooManyLeasesError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(create, range(40))) == 5
    assert len(leases.all()) == 5


def test_a_very_long_lease_keeps_its_expiry_exactly(redis_client: redis.Redis) -> None:
    leases = board(redis_client)
    leases.create("a", "v000001", 10 * 365 * 86400.0)
    leases.release("a")
    leases.create("b", "v000001", 10 * 365 * 86400.0)
    assert leases.all()["b"].left_s == pytest.approx(10 * 365 * 86400.0, abs=5)


def test_the_marks_of_released_leases_are_bounded_and_those_that_end_last_stay(
    redis_client: redis.Redis,
) -> None:
    leases = board(redis_client, leases=3)
    leases.create("held", "v000001", 10.0)
    for number in range(1100):
        leases.create(f"lease-{number}", "v000001", 3600.0 + number)
        leases.release(f"lease-{number}")
    marks = [f"lease-{number}" for number in range(100, 1100)]
    assert sorted(leases.all()) == sorted(["held", *marks])
    assert leases.all()["held"].version == "v000001"
