"""A fake server, in a thread, that takes part in a cut-over as the test prescribes."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Self

import redis

from metarm.shared.cut_over import CutOver, CutOverBoard, Phase
from metarm.shared.fleet import LIFETIME_MS, RENEW_S, Fleet, ServiceRecord
from metarm.store.versions import VersionStore
from tests.processes import wait_until

LASTING_MS = 60_000  # a registration that outlasts any stall of the machine


class ScriptedServer:
    """Reports what the test prescribes, and records the pointer's version in each phase."""

    def __init__(
        self, name: str, client: redis.Redis, store: VersionStore, *, says: str = "ready", holds: bool = True
    ) -> None:
        """`says` is its report in the prepare phase. It reports 'held' if `holds`. Both may change while it
        runs."""
        self.name = name
        self.says = says
        self.holds = holds
        self.renews = False
        self._renew_at = 0.0
        self.seen: dict[Phase, str | None] = {}
        self._store = store
        self._fleet, self._board = Fleet(client), CutOverBoard(client)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        assert self.register(LASTING_MS)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.die()
        with contextlib.suppress(redis.RedisError):
            self._fleet.leave(self.name)

    def wait_until_seen(self, phase: Phase) -> None:
        wait_until(lambda: phase in self.seen)

    def register(self, lifetime_ms: int = LIFETIME_MS) -> bool:
        return self._fleet.renew(ServiceRecord(self.name, "", 0, None, [], 0.0), lifetime_ms)

    def die(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            with contextlib.suppress(redis.RedisError):
                self._renew()
                state = self._board.state()
                if state is not None and self.name in state.servers:
                    self._answer(state)

    def _renew(self) -> None:
        if self.renews and time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + RENEW_S
            self.register()

    def _answer(self, state: CutOver) -> None:
        self.seen.setdefault(state.phase, self._store.current())
        if state.phase == "prepare":
            self._board.report(state.id, "prepare", self.name, self.says)
        if state.phase == "hold" and self.holds:
            self._board.report(state.id, "hold", self.name, "held")
