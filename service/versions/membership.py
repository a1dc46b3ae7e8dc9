"""This server's membership in the fleet: it registers in Redis, and takes part in cut-overs.

A thread talks to Redis; the steps of a cut-over happen on the event loop, where requests capture their version.
docs/architecture.md has the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Literal

import redis

from metarm.errors import MetaRMError
from metarm.runtime.loops import LoopHealth
from metarm.shared.coordinator import HOLD_S, READ_POINTER_AFTER_S
from metarm.shared.cut_over import REFUSED, CutOver, CutOverBoard, CutOverNotices
from metarm.shared.fleet import RENEW_S, Fleet, ServiceRecord, new_service_id
from metarm.store.versions import VersionStore
from service.versions.live import LiveVersions
from service.versions.swapper import Swapper

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.25  # in case a notice got lost
BUSY_POLL_S = 0.02
HOLD_POLL_S = 0.003
WAIT_FOR_OTHERS_S = 0.05


class Membership:
    """The membership of one server, from `join` to `close`."""

    def __init__(
        self,
        client: redis.Redis,
        store: VersionStore,
        live: LiveVersions,
        swapper: Swapper,
        *,
        url: str,
        on_hold: Callable[[str, float], None],
        loop: LoopHealth,
        read_pointer_after_s: float = READ_POINTER_AFTER_S,
        idle_poll_s: float = IDLE_POLL_S,
    ) -> None:
        """`client` has a timeout of COMMAND_TIMEOUT_S. `on_hold(outcome, seconds)` is called after every hold;
        `loop` receives the outcome of the thread's turns."""
        self._client = client
        self._fleet = Fleet(client)
        self._board = CutOverBoard(client)
        self._store = store
        self._live = live
        self._swapper = swapper
        self._on_hold = on_hold
        self._health = loop
        self._read_pointer_after_s = read_pointer_after_s
        self._idle_poll_s = idle_poll_s
        self._url = url
        self._started = time.time()
        self._notices = CutOverNotices(client)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renew_at = 0.0
        self._registered: bool | None = None  # None until Redis has answered
        self._preparing: tuple[str, Future[None]] | None = None  # a cut-over's id, and the load
        self._ended = ""  # the id of the last cut-over that has ended for this server
        self.id = new_service_id()

    async def join(self) -> None:
        """Load the version that the pointer names and register, before the first request is answered. Waits
        while other servers cut over, so that it answers neither with the old version after them nor with the
        new one before them."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._follow()
            try:
                if await asyncio.to_thread(self._renew):
                    break
            except redis.RedisError as error:
                log.warning("not registered, serving alone: Redis does not answer: %s", error)
                break
            await asyncio.sleep(WAIT_FOR_OTHERS_S)
        self._thread.start()
        await self._follow()  # the pointer may have moved between the load and the registration

    async def _follow(self) -> None:
        with contextlib.suppress(OSError):  # the swapper's loop tries again, and reports it
            await self._swapper.follow()

    def close(self) -> None:
        """End the thread and the registration. Blocks for a moment: not for the event loop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._fleet.leave(self.id)
        except redis.RedisError as error:
            log.info("the registration expires by itself: %s", error)
        finally:
            self._notices.close()
            self._client.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._health.turn():
                self._turn()
            if self._health.error is not None:
                self._registered = None
                self._stopping.wait(self._idle_poll_s)

    def _turn(self) -> None:
        self._notices.subscribe()
        busy = self._take_part(self._board.state())
        # due immediately after a cut-over: others read what this server serves
        if time.monotonic() >= self._renew_at:
            self._renew()
        self._notices.wait(BUSY_POLL_S if busy else self._idle_poll_s)

    def _renew(self) -> bool:
        record = ServiceRecord(
            id=self.id,
            url=self._url,
            pid=os.getpid(),
            serving=self._live.current_name,
            loaded=self._live.loaded_names,
            started=self._started,
        )
        done = self._fleet.renew(record)
        if done != self._registered:
            log.info("registered as %s" if done else "%s waits for a cut-over to end", self.id)
        self._registered = done
        self._renew_at = time.monotonic() + (RENEW_S if done else WAIT_FOR_OTHERS_S)
        return done

    def _take_part(self, state: CutOver | None) -> bool:
        """Take this server's step in a cut-over; True while more steps are to come."""
        if state is None or state.id == self._ended or self.id not in state.servers:
            return False
        if state.phase == "prepare" and state.running:
            self._prepare(state)
            return True
        if self._preparing is not None and not self._preparing[1].done():
            self._preparing[1].cancel()  # the cut-over no longer needs it
        if state.phase == "hold" and state.running and self._is_prepared(state):
            self._hold(state)
        else:
            taken = state.version if state.phase == "go" and self._is_prepared(state) else None
            self._run_on_event_loop(self._swapper.end(taken))
        self._ended, self._preparing, self._renew_at = state.id, None, 0.0
        return False

    def _prepare(self, state: CutOver) -> None:
        """Load and verify in the background; then report the result."""
        if self._preparing is None or self._preparing[0] != state.id:
            self._preparing = (state.id, self._submit(self._swapper.prepare(state.version)))
        _, load = self._preparing
        if load.done() and state.servers[self.id] == "":
            error = load.exception()
            why = error.message if isinstance(error, MetaRMError) else f"{type(error).__name__}: {error}"
            self._board.report(state.id, "prepare", self.id, f"{REFUSED}{why}" if error else "ready")

    def _is_prepared(self, state: CutOver) -> bool:
        if self._preparing is None or self._preparing[0] != state.id:
            return False
        load = self._preparing[1]
        return load.done() and not load.cancelled() and load.exception() is None

    def _hold(self, state: CutOver) -> None:
        """Hold new requests until the cut-over is decided; they then capture the version it names."""
        started = time.monotonic()
        gate = self._live.gate
        outcome: Literal["go", "abort"] = "abort"
        try:
            self._run_on_event_loop(_call(gate.close))
            outcome = self._outcome(state, started)
            self._run_on_event_loop(self._swapper.end(state.version if outcome == "go" else None))
        finally:
            assert self._loop is not None  # noqa: S101 (joined)
            self._loop.call_soon_threadsafe(gate.open)
            self._on_hold(outcome, time.monotonic() - started)

    def _outcome(self, state: CutOver, started: float) -> Literal["go", "abort"]:
        """The decision. Without one in time, the pointer decides, which moves only while all servers hold."""
        reported = False
        while time.monotonic() - started < self._read_pointer_after_s:
            with contextlib.suppress(redis.RedisError):
                found = self._board.state() if reported else self._report_held(state)
                reported = True
                if found is None or found.id != state.id:
                    break  # Redis has lost it
                if found.phase == "go" or found.phase == "abort":
                    return found.phase
                self._notices.wait(HOLD_POLL_S)
            time.sleep(HOLD_POLL_S)
        seen: Literal["go", "abort"] = "go" if self._pointer() == state.version else "abort"
        with contextlib.suppress(redis.RedisError):
            decided = self._board.move(state.id, "hold", seen, f"{self.id} could not hold any longer")
            if decided is not None and decided.id == state.id and decided.phase in ("go", "abort"):
                return "go" if decided.phase == "go" else "abort"
        return seen

    def _report_held(self, state: CutOver) -> CutOver | None:
        return self._board.report(state.id, "hold", self.id, "held")

    def _pointer(self) -> str | None:
        try:
            return self._store.current()
        except MetaRMError as error:
            log.warning("the pointer cannot be read: %s", error.message)
            return None

    def _submit(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        assert self._loop is not None  # noqa: S101 (joined)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run_on_event_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it on the event loop, within a hold's time. Raises TimeoutError."""
        future = self._submit(work)
        try:
            future.result(HOLD_S)
        except TimeoutError:
            future.cancel()
            raise


async def _call(do: Callable[[], None]) -> None:
    do()
