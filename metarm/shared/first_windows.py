"""The spread ratio of each version over its first window of scored groups: what a fall is measured against.

Redis keeps it, so that a restarted server does not take the scores of a policy that has moved for the first.
"""

from __future__ import annotations

from typing import cast

import redis

from metarm.shared.keys import first_window_key

KEEP_S = 30 * 86400  # since a server has asked for it last


class FirstWindows:
    """One for all servers. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def ratio(self, version: str, reference_spread: float, measured: float | None = None) -> float | None:
        """The ratio of `version`, whose reference spread tells it from another store's version of that name.
        The first ratio `measured` by any server stays; None: there is none yet."""
        key = first_window_key(version, reference_spread)
        if measured is not None:
            self._redis.set(key, repr(measured), nx=True, ex=KEEP_S)
        found = cast("bytes | None", self._redis.getex(key, ex=KEEP_S))
        return None if found is None else float(found)
