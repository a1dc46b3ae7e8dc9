"""Commands from a service to the trainer, through Redis: write to the version store on its behalf.

For services whose versions folder is mounted read-only. The trainer runs commands in a separate thread, so that
a running job does not delay them.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import orjson
import redis

from metarm.errors import MetaRMError, TrainerUnavailableError
from metarm.shared.keys import COMMANDS, answer_key, command_key
from metarm.shared.presence import TrainerPresence

log = logging.getLogger(__name__)

Kind = Literal["activate", "set_label", "remove_label"]
WAIT_S = 1.0  # for one blocking Redis command: less than the client's socket timeout
SHORTEST_WAIT_S = 0.01  # Redis reads 0 as no limit
KEEP_ANSWER_S = 60


class StoreCommands:
    """Thread-safe. The client's socket timeout must exceed WAIT_S."""

    def __init__(self, client: redis.Redis, *, wait_s: float = WAIT_S) -> None:
        self._redis = client
        self._presence = TrainerPresence(client)
        self._wait_s = wait_s

    def ask(self, kind: Kind, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Send a command; return the trainer's answer.

        Raises TrainerUnavailableError if no trainer runs or answers in time, the error that the trainer
        raised if the command failed, and redis.RedisError when Redis does not answer.
        """
        if self._presence.status() is None:
            raise TrainerUnavailableError(
                "this server may not write versions, and no trainer is running that could: start one"
            )
        id_ = uuid.uuid4().hex
        body = orjson.dumps({"kind": kind, "arguments": arguments})
        with self._redis.pipeline() as pipeline:
            pipeline.set(command_key(id_), body, px=int((timeout_s + 2 * self._wait_s) * 1000))
            pipeline.lpush(COMMANDS, id_)
            pipeline.execute()
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            wait_s = max(SHORTEST_WAIT_S, min(self._wait_s, left_s))
            found = cast("tuple[bytes, bytes] | None", self._redis.blpop([answer_key(id_)], timeout=wait_s))
            if found is not None:
                return _value_of(orjson.loads(found[1]))
        if self._redis.delete(command_key(id_)):
            self._redis.lrem(COMMANDS, 1, id_)
            raise TrainerUnavailableError(f"the trainer did not take the command within {timeout_s:g} s")
        raise TrainerUnavailableError(f"the trainer took the command but did not answer within {timeout_s:g} s")

    def serve_one(self, do: Callable[[Kind, Mapping[str, Any]], Any]) -> None:
        """Wait up to WAIT_S for a command, run it, and send what `do` returns or the error it raises.

        A command whose sender has given up is dropped. Raises redis.RedisError when Redis does not answer.
        """
        found = cast("tuple[bytes, bytes] | None", self._redis.brpop([COMMANDS], timeout=self._wait_s))
        if found is None:
            return
        id_ = found[1].decode()
        body = cast("bytes | None", self._redis.getdel(command_key(id_)))
        if body is None:  # withdrawn, or expired
            return
        command = orjson.loads(body)
        answer = _run(command["kind"], command["arguments"], do)
        with self._redis.pipeline() as pipeline:
            pipeline.rpush(answer_key(id_), orjson.dumps(answer))
            pipeline.expire(answer_key(id_), KEEP_ANSWER_S)
            pipeline.execute()


def _run(
    kind: Kind, arguments: Mapping[str, Any], do: Callable[[Kind, Mapping[str, Any]], Any]
) -> dict[str, Any]:
    """{"value"}, or {"error"} as MetaRMError.to_wire() gives it."""
    try:
        return {"value": do(kind, arguments)}
    except MetaRMError as error:
        return {"error": error.to_wire()}
    except Exception as error:
        log.exception("command %s failed", kind)
        return {"error": MetaRMError.unexpected(error).to_wire()}


def _value_of(answer: Mapping[str, Any]) -> Any:
    if "error" in answer:
        raise MetaRMError.from_wire(answer["error"])
    return answer["value"]
