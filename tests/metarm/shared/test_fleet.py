"""The list of live services, on a real Redis."""

from __future__ import annotations

import time

import redis

from metarm.shared.cut_over import CutOverBoard
from metarm.shared.fleet import Fleet, ServiceRecord, new_service_id
from metarm.shared.keys import SERVICES


def record(name: str, started: float = 0.0) -> ServiceRecord:
    return ServiceRecord(name, f"http://{name}:8080", 1, "v000001", ["v000001"], started)


def test_live_services_are_listed_with_their_records_in_the_order_of_their_start(
    redis_client: redis.Redis,
) -> None:
    fleet = Fleet(redis_client)
    assert fleet.live() == []
    assert fleet.renew(record("b", 2.0))
    assert fleet.renew(record("a", 1.0))
    assert fleet.live() == [record("a", 1.0), record("b", 2.0)]


def test_a_service_disappears_when_it_leaves_or_when_its_lifetime_ends(
    redis_client: redis.Redis,
) -> None:
    fleet = Fleet(redis_client)
    fleet.renew(record("silent"))
    fleet.renew(record("leaver"))
    fleet.leave("leaver")
    assert [r.id for r in fleet.live()] == ["silent"]
    fleet.renew(record("silent"), lifetime_ms=50)
    time.sleep(0.1)
    assert fleet.live() == []


def test_a_new_service_waits_for_a_cut_over_to_end_and_participants_do_not(redis_client: redis.Redis) -> None:
    fleet, board = Fleet(redis_client), CutOverBoard(redis_client)
    fleet.renew(record("old"))
    board.begin("c1", "v000002", "test", 60_000)
    assert not fleet.renew(record("new"))
    assert fleet.renew(record("old"))
    board.move("c1", "prepare", "abort")
    assert fleet.renew(record("new"))


def test_a_new_service_does_not_wait_for_a_dead_coordinator(redis_client: redis.Redis) -> None:
    fleet, board = Fleet(redis_client), CutOverBoard(redis_client)
    fleet.renew(record("old"))
    board.begin("c1", "v000002", "test", 50)
    time.sleep(0.1)
    assert fleet.renew(record("new"))


def test_service_ids_are_unique() -> None:
    assert new_service_id() != new_service_id()


def test_a_new_service_removes_the_ids_of_those_that_ended_without_leaving(redis_client: redis.Redis) -> None:
    fleet = Fleet(redis_client)
    fleet.renew(record("alive"))
    redis_client.sadd(SERVICES, *[f"killed-{number}" for number in range(1000)])
    fleet.renew(record("alive"))
    assert redis_client.scard(SERVICES) == 1001
    fleet.renew(record("new"))
    assert redis_client.smembers(SERVICES) == {b"alive", b"new"}
