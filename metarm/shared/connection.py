"""The Redis client that every process uses."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def connect(url: str, timeout_s: float = 2.0) -> redis.Redis:
    """A client whose commands fail within `timeout_s`, and which leaves retries to its callers."""
    return redis.Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )
