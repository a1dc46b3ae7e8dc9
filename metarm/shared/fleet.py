"""The live services in Redis: one registration per service, which expires unless it is renewed."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import orjson
import redis

from metarm.shared.keys import CUT_OVER, SERVICES, service_key
from metarm.shared.scripts import load_script

LIFETIME_MS = 5_000
RENEW_S = 1.0


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """A service's registration. `started` is Unix time in seconds."""

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
        self._script = load_script(client, "clock", "cut_over_record", "fleet")

    def renew(self, record: ServiceRecord, lifetime_ms: int = LIFETIME_MS) -> bool:
        """Register a service, or renew its registration. False, and nothing written, for a new service while
        a cut-over runs: it must not answer with a version that the others have left, or have yet to take."""
        keys = [service_key(record.id), SERVICES, CUT_OVER]
        return bool(self._script(keys, ["renew", record.id, orjson.dumps(asdict(record)), lifetime_ms]))

    def leave(self, service_id: str) -> None:
        """Remove a registration, and the service from a running cut-over."""
        self._script([service_key(service_id), SERVICES, CUT_OVER], ["leave", service_id])

    def live(self) -> list[ServiceRecord]:
        """The live services in the order of their start."""
        ids = cast("set[bytes]", self._redis.smembers(SERVICES))
        if not ids:
            return []
        found = cast("list[bytes | None]", self._redis.mget([service_key(i.decode()) for i in ids]))
        records = [ServiceRecord(**orjson.loads(raw)) for raw in found if raw is not None]
        return sorted(records, key=lambda record: (record.started, record.id))


def new_service_id() -> str:
    """A new id for one process: its host, its process id, and a random part."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
