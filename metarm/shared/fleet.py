"""Which services live, and what each serves: one record a service in Redis, which expires. No torch."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import orjson
import redis

from metarm.shared.cut_over import FIELD, RUNNING
from metarm.shared.keys import CUT_OVER, SERVICES, service_key

LIFETIME_MS = 5_000
RENEW_S = 1.0

# Who is not there yet waits while a cut-over is under way that it takes no part in.
# KEYS: record, ids, cut-over. ARGV: id, record, lifetime in ms.
RENEW = (
    RUNNING
    + f"""
if redis.call('EXISTS', KEYS[1]) == 0 and running(KEYS[3])
  and redis.call('HEXISTS', KEYS[3], '{FIELD}' .. ARGV[1]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
"""
)

# KEYS: record, ids, cut-over. ARGV: id.
LEAVE = f"""
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], '{FIELD}' .. ARGV[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """What a service says of itself. `started` is Unix time in seconds."""

    id: str
    url: str
    pid: int
    serving: str | None
    loaded: Sequence[str]
    started: float


class Fleet:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def renew(self, record: ServiceRecord, lifetime_ms: int = LIFETIME_MS) -> bool:
        """Say that this service lives. False, and nothing said, where it is not registered yet and has to
        wait for a cut-over to end: it must not answer with a version that the others have left, or have
        yet to take."""
        keys = [service_key(record.id), SERVICES, CUT_OVER]
        value = orjson.dumps(asdict(record))
        return bool(self._redis.eval(RENEW, 3, *keys, record.id, value, lifetime_ms))

    def leave(self, service_id: str) -> None:
        """This service answers nobody any more."""
        self._redis.eval(LEAVE, 3, service_key(service_id), SERVICES, CUT_OVER, service_id)

    def live(self) -> list[ServiceRecord]:
        """All that live, in the order of their start."""
        ids = cast("set[bytes]", self._redis.smembers(SERVICES))
        if not ids:
            return []
        found = cast("list[bytes | None]", self._redis.mget([service_key(i.decode()) for i in ids]))
        records = [ServiceRecord(**orjson.loads(raw)) for raw in found if raw is not None]
        return sorted(records, key=lambda record: (record.started, record.id))


def new_service_id() -> str:
    """Of one process, never given twice: host, process id, and chance."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
