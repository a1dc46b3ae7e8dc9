from __future__ import annotations

import redis

from metarm.shared.first_windows import KEEP_S, FirstWindows


def test_the_first_ratio_that_any_server_measured_stays(redis_client: redis.Redis) -> None:
    one, other = FirstWindows(redis_client), FirstWindows(redis_client)
    assert one.ratio("v000001", 0.5) is None
    assert one.ratio("v000001", 0.5, 0.123456789012345) == 0.123456789012345
    assert other.ratio("v000001", 0.5, 0.7) == 0.123456789012345
    assert other.ratio("v000002", 0.5) is None
    assert other.ratio("v000001", 0.25) is None  # a version of the same name in another store


def test_a_ratio_stays_as_long_as_a_server_asks_for_it(redis_client: redis.Redis) -> None:
    windows = FirstWindows(redis_client)
    windows.ratio("v000001", 0.5, 1.0)
    (key,) = redis_client.keys("metarm:retrain:first:*")
    redis_client.expire(key, 10)
    assert windows.ratio("v000001", 0.5) == 1.0
    assert redis_client.ttl(key) > KEEP_S - 10
