"""The Redis client that every process uses."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from metarm.errors import ConfigurationError


def connect(url: str, timeout_s: float = 2.0) -> redis.Redis:
    """A client whose commands fail within `timeout_s`, and which leaves retries to its callers. It connects at
    its first command. Raises ConfigurationError for an invalid URL."""
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        client.connection_pool.make_connection()  # connects to nothing; it refuses unknown options of the URL
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ConfigurationError(f"REDIS_URL is no URL of a Redis: {error}") from error
    return client
