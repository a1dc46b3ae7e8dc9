"""Writing to the version store where it can only be read: the trainer does it, asked through Redis.

A service whose versions folder is mounted read-only sends a command; the trainer carries it out in a thread
of its own, so that a running job delays none. No torch.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import orjson
import redis

from metarm.errors import CutOverAbortedError, MetaRMError, TrainerUnavailableError
from metarm.shared.jobs import JobBoard
from metarm.shared.keys import COMMANDS, answer_key, command_key

log = logging.getLogger(__name__)

Kind = Literal["activate", "set_label", "remove_label"]
WAIT_S = 1.0  # of one blocking command: less than a client's socket timeout
SHORTEST_WAIT_S = 0.01  # none at all would mean for ever
KEEP_ANSWER_S = 60


class StoreCommands:
    """Thread-safe. `client` must allow for commands that block for WAIT_S."""

    def __init__(self, client: redis.Redis, *, wait_s: float = WAIT_S) -> None:
        self._redis = client
        self._wait_s = wait_s
        self._jobs = JobBoard(client)

    def ask(self, kind: Kind, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Have the trainer do it; return what it answers.

        Raises TrainerUnavailableError where none takes it, the trainer's own error where it fails, and
        redis.RedisError when Redis does not answer.
        """
        if self._jobs.trainer() is None:
            raise TrainerUnavailableError(
                "versions are read-only for this server, so the trainer has to write them, and none is running"
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
            raise TrainerUnavailableError(f"the trainer did not take the command within {timeout_s:g} s")
        raise TrainerUnavailableError(
            f"the trainer took the command, and did not say within {timeout_s:g} s what came of it"
        )

    def serve_one(self, do: Callable[[Kind, Mapping[str, Any]], Any]) -> None:
        """Wait up to WAIT_S for a command that somebody still waits for, and answer it with what `do`
        returns or with the MetaRMError it raises."""
        found = cast("tuple[bytes, bytes] | None", self._redis.brpop([COMMANDS], timeout=self._wait_s))
        if found is None:
            return
        id_ = found[1].decode()
        body = cast("bytes | None", self._redis.getdel(command_key(id_)))
        if body is None:  # withdrawn, or expired
            return
        command = orjson.loads(body)
        answer = _answer(command["kind"], command["arguments"], do)
        with self._redis.pipeline() as pipeline:
            pipeline.rpush(answer_key(id_), orjson.dumps(answer))
            pipeline.expire(answer_key(id_), KEEP_ANSWER_S)
            pipeline.execute()


def _answer(
    kind: Kind, arguments: Mapping[str, Any], do: Callable[[Kind, Mapping[str, Any]], Any]
) -> dict[str, Any]:
    try:
        return {"value": do(kind, arguments)}
    except MetaRMError as error:
        known = {"retry_after_s": error.retry_after_s} if isinstance(error, CutOverAbortedError) else {}
        return {"error": {"code": error.code, "message": error.message, "details": error.details, **known}}
    except Exception as error:
        log.exception("command %s failed", kind)
        return {
            "error": {"code": MetaRMError.code, "message": f"{type(error).__name__}: {error}", "details": {}}
        }


def _value_of(answer: Mapping[str, Any]) -> Any:
    if "error" not in answer:
        return answer["value"]
    error = answer["error"]
    for kind in _all_errors(MetaRMError):
        if kind.code == error["code"]:
            with contextlib.suppress(TypeError):  # one that is made in another way
                raise _made(kind, error)
    raise MetaRMError(error["message"], **error["details"])


def _made(kind: type[MetaRMError], error: Mapping[str, Any]) -> MetaRMError:
    made = kind(error["message"], **error["details"])
    if "retry_after_s" in error:
        made.retry_after_s = error["retry_after_s"]
    return made


def _all_errors(kind: type[MetaRMError]) -> list[type[MetaRMError]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in _all_errors(sub))]
