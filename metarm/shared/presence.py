"""The trainer's presence in Redis: one trainer at a time, and its status."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, cast

import orjson
import redis

from metarm.errors import TrainerUnavailableError
from metarm.shared.keys import TRAINER
from metarm.shared.scripts import load_script


def holder_name(pid: int) -> str:
    """The name of the trainer that runs as process `pid` of this machine."""
    return f"{socket.gethostname()}:{pid}"


class TrainerPresence:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._script = load_script(client, "presence")
        self.last_status: dict[str, Any] | None = None  # as last read
        self.last_error: redis.RedisError | None = None  # of the last reading

    def hold(self, holder: str, status: Mapping[str, Any], lifetime_ms: int) -> bool:
        """Take or renew the place for trainer `holder`, for `lifetime_ms`; False while another one holds it."""
        value = orjson.dumps({"holder": holder, **status})
        return bool(self._script([TRAINER], ["hold", holder, value, lifetime_ms]))

    def release(self, holder: str) -> None:
        """Free the place if `holder` holds it."""
        self._script([TRAINER], ["release", holder])

    def readable_status(self) -> dict[str, Any] | None:
        """`status`, but None for a value that no trainer wrote, which `/ready` reports."""
        try:
            return self.status()
        except TrainerUnavailableError:
            return None

    def status(self) -> dict[str, Any] | None:
        """The status of the live trainer; None if none is running. Raises TrainerUnavailableError for a value
        that no trainer wrote."""
        try:
            raw = cast("bytes | None", self._redis.get(TRAINER))
        except redis.RedisError as error:
            self.last_error = error
            raise
        self.last_status, self.last_error = None, None
        if raw is not None:
            self.last_status = _read(raw)
        return self.last_status


def _read(raw: bytes) -> dict[str, Any]:
    try:
        status = orjson.loads(raw)
        if isinstance(status, dict) and isinstance(status["holder"], str):
            return status
    except (orjson.JSONDecodeError, KeyError):
        pass
    raise TrainerUnavailableError(f"the value of {TRAINER} in Redis is no trainer's: {raw[:100]!r}; delete it")
