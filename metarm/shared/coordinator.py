"""The coordinator of a cut-over: makes a version current on all live servers together.

The service coordinates for POST /versions/{v}/activate, and the trainer for a version that it publishes. The
pointer on disk decides: it moves only while no server captures a version for new requests. A process that loses
Redis reads the outcome of the cut-over there.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import redis

from metarm.errors import CutOverAbortedError, MetaRMError
from metarm.shared.cut_over import CutOver, CutOverBoard, Phase
from metarm.store.versions import VersionStore

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 0.25  # for the Redis clients in a cut-over: a hold must not wait for Redis
LEASE_MS = 3_000  # a coordinator that does not renew it in time counts as dead
HOLD_S = 1.0  # the longest time that a server holds new requests while Redis answers
READ_POINTER_AFTER_S = 0.75  # time in a hold after which a server without a decision follows the pointer
MOVE_WITHIN_S = 0.5  # all servers must hold within this time, before the first one reads the pointer
RENAME_WITHIN_S = 0.7  # the pointer must move within this time; a slow disk or lock may exceed it
HOLD_LEASE_MS = 2_000  # longer than any hold
PATIENCE_S = 2.0  # how long a command is repeated while Redis does not answer
ATTEMPTS = 3  # to reach a hold
PAUSE_S = 2.5  # between attempts: with the hold, the registration of a dead server expires
PREPARE_POLL_S = 0.02
HOLD_POLL_S = 0.002
NOT_HELD = "did not hold new requests in time"


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """The attempts of a hold, the pause between them, and the two deadlines of each."""

    attempts: int = ATTEMPTS
    pause_s: float = PAUSE_S
    move_within_s: float = MOVE_WITHIN_S
    rename_within_s: float = RENAME_WITHIN_S


TIMES = HoldTimes()


@dataclass(frozen=True, slots=True)
class _HoldFailed:
    """A failed attempt: some server did not hold in time, or the hold was not reached. Another may succeed."""

    error: CutOverAbortedError


class Coordinator:
    """Blocks while it works. `client` has the timeout COMMAND_TIMEOUT_S."""

    def __init__(
        self,
        client: redis.Redis,
        store: VersionStore,
        *,
        name: str,
        prepare_s: float,
        times: HoldTimes = TIMES,
    ) -> None:
        """`name` identifies this process in messages. Servers may load for `prepare_s` seconds."""
        self._board = CutOverBoard(client)
        self._store = store
        self._name = name
        self._prepare_s = prepare_s
        self._times = times

    def promote(self, version: str, *, together: bool = True) -> list[str]:
        """Make `version` current; return the servers that cut over together.

        The list is empty if each server follows the pointer alone: without `together`, without a live
        server, or while Redis does not answer. Raises UnknownVersionError, ReadOnlyStoreError, and
        CutOverAbortedError, which names the servers that refused the version or were too slow: then all
        servers stay on the version they had.
        """
        self._store.path(version)
        self._store.check_writable()
        if not together:
            self._store.activate(version)
            return []
        for attempt in range(1, self._times.attempts + 1):
            found = self._attempt(version)
            if not isinstance(found, _HoldFailed):
                return found
            if attempt == self._times.attempts:
                raise found.error
            log.warning("%s; trying again", found.error.message)
            time.sleep(self._times.pause_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, version: str) -> list[str] | _HoldFailed:
        id_ = uuid.uuid4().hex
        begun = self._begin(id_, version)
        if begun is None:
            self._store.activate(version)
            return []
        if begun.id != id_:
            text = f"a cut-over to {begun.version} is running ({begun.coordinator})"
            return _HoldFailed(CutOverAbortedError(text, retry_after_s=2, version=begun.version))
        ready = self._prepare(begun)
        if len(ready) > 1:
            return self._hold_and_go(begun, ready)
        self._move_pointer(begun)
        self._decide_go(begun, "prepare")
        return ready

    def _begin(self, id_: str, version: str) -> CutOver | None:
        """The running cut-over, this one or another; None without live servers or without Redis."""
        try:
            return _retrying(lambda: self._board.begin(id_, version, self._name, LEASE_MS))
        except redis.RedisError as error:
            log.warning(
                "each server follows the pointer to %s alone: Redis does not answer: %s", version, error
            )
            return None

    def _prepare(self, begun: CutOver) -> list[str]:
        """Wait until every live server has loaded the version; return the servers."""
        deadline = time.monotonic() + self._prepare_s
        while True:
            try:
                state = _retrying(lambda: self._board.keep(begun.id, LEASE_MS))
            except redis.RedisError as error:
                message = f"Redis stopped answering: {error}"
                raise CutOverAbortedError(message, retry_after_s=2) from error
            if state is None or state.id != begun.id or state.phase != "prepare" or not state.running:
                raise _abandoned(begun, state)
            if state.refusals():
                raise self._aborted(begun, state.refusals())
            missing = state.servers_in("")
            if not missing:
                return state.servers_in("ready")
            if time.monotonic() > deadline:
                late = f"had not loaded it within {self._prepare_s:g} s"
                raise self._aborted(begun, dict.fromkeys(missing, late), retry_after_s=5)
            time.sleep(PREPARE_POLL_S)

    def _hold_and_go(self, begun: CutOver, ready: list[str]) -> list[str] | _HoldFailed:
        started = time.monotonic()
        error = self._hold(begun, ready, started)
        if error is not None:
            return _HoldFailed(error)
        before = self._store.current()
        if not self._move_pointer(begun, lambda: time.monotonic() - started < self._times.rename_within_s):
            late = "would have ended its hold before the pointer moved"
            return _HoldFailed(self._aborted(begun, dict.fromkeys(ready, late), retry_after_s=5))
        decided = self._decide_go(begun, "hold")
        if decided is not None and decided.id == begun.id and decided.phase == "abort":
            # the servers had ended their hold before the pointer moved
            if before is not None and self._store.current() == begun.version:
                self._store.activate(before)
            return _HoldFailed(_abandoned(begun, decided))
        took_ms = 1000 * (time.monotonic() - started)
        log.info("%d servers cut over to %s, new requests held for %.0f ms", len(ready), begun.version, took_ms)
        return ready

    def _hold(self, begun: CutOver, ready: list[str], started: float) -> CutOverAbortedError | None:
        """Make all servers hold new requests. Returns None once they do, or the error."""
        waiting, why = ready, NOT_HELD
        state: CutOver | None = begun
        while time.monotonic() - started < self._times.move_within_s:
            try:
                if state is None or state.id != begun.id or state.phase in ("go", "abort"):
                    return _abandoned(begun, state)
                if state.phase == "prepare":
                    state = self._board.move(begun.id, "prepare", "hold", lease_ms=HOLD_LEASE_MS)
                    time.sleep(HOLD_POLL_S)
                    continue
                waiting = state.servers_in("ready", "lost")
                if not waiting and time.monotonic() - started < self._times.move_within_s:
                    return None
                time.sleep(HOLD_POLL_S)
                state, why = self._board.state(), NOT_HELD
            except redis.RedisError as error:
                why = f"is in an unknown state: Redis does not answer: {error}"
                time.sleep(HOLD_POLL_S)
        return self._aborted(begun, dict.fromkeys(waiting or ready, why), retry_after_s=5)

    def _move_pointer(self, begun: CutOver, only_if: Callable[[], bool] = lambda: True) -> bool:
        """False if `only_if` returned False directly before the move: the pointer did not move."""
        try:
            return self._store.activate(begun.version, only_if)
        except (OSError, MetaRMError) as error:
            self._abort(begun, f"the pointer could not be moved: {error}")
            raise

    def _decide_go(self, begun: CutOver, now: Phase) -> CutOver | None:
        """Announce that the pointer has moved. Without Redis, each server reads the pointer."""
        try:
            return _retrying(lambda: self._board.move(begun.id, now, "go"))
        except redis.RedisError as error:
            log.warning("each server reads the pointer to %s: Redis does not answer: %s", begun.version, error)
            return None

    def _aborted(
        self, begun: CutOver, servers: dict[str, str], retry_after_s: int | None = None
    ) -> CutOverAbortedError:
        reasons = "; ".join(f"{server}: {why}" for server, why in servers.items())
        error = CutOverAbortedError(
            f"all servers stay on the version they had, not {begun.version}: {reasons}",
            retry_after_s=retry_after_s,
            version=begun.version,
            servers=servers,
        )
        self._abort(begun, error.message)
        return error

    def _abort(self, begun: CutOver, reason: str) -> None:
        """Abort the cut-over. Without Redis it ends when its lease does."""
        try:
            self._board.move(begun.id, "prepare", "abort", reason)
            self._board.move(begun.id, "hold", "abort", reason)
        except redis.RedisError as error:
            log.warning("the cut-over to %s ends with its lease: %s", begun.version, error)


def _abandoned(begun: CutOver, state: CutOver | None) -> CutOverAbortedError:
    why = state.reason if state is not None and state.id == begun.id else ""
    return CutOverAbortedError(
        f"the cut-over to {begun.version} was abandoned: {why or 'its coordinator was too slow'}",
        retry_after_s=2,
        version=begun.version,
    )


def _retrying(call: Callable[[], CutOver | None]) -> CutOver | None:
    """The result of a command, which is repeated for PATIENCE_S while Redis does not answer. Raises
    redis.RedisError."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except redis.RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PREPARE_POLL_S)
