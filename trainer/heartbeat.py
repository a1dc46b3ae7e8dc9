"""The trainer's place in Redis: one trainer at a time holds it, renews it, and shows its status there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

import redis

from metarm.errors import MetaRMError
from metarm.runtime.loops import Loops
from metarm.runtime.rate_limit import RateLimit
from metarm.shared.presence import TrainerPresence, holder_name

log = logging.getLogger(__name__)
LIFETIME_MS = 10_000
RENEW_S = 2.0
RETRY_S = 1.0  # while the place is not free
LOG_WAITING_S = 60.0


class TrainerReplacedError(MetaRMError):
    """Another trainer has taken the place, and the job, because this one did not renew it in time."""


class Heartbeat:
    """Renews the trainer's place from its own thread."""

    def __init__(
        self,
        presence: TrainerPresence,
        loops: Loops,
        *,
        renew_s: float = RENEW_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """`loops` are all of this trainer's: the place shows those that are failing."""
        self.holder = holder_name(os.getpid())
        self._presence = presence
        self._loops = loops
        self._health = loops.add("heartbeat")
        self._renew_s = renew_s
        self._retry_s = retry_s
        self._status: Mapping[str, Any] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._renewing = threading.Lock()
        self._held = False

    def take_place(self, status: Mapping[str, Any], stop: threading.Event) -> bool:
        """Wait until Redis answers and no other trainer holds the place, then take it. False if `stop` was
        set first."""
        self._status = status
        log_waiting = RateLimit(LOG_WAITING_S)
        while not stop.is_set():
            self._renew()
            if self._held:
                self._thread.start()
                return True
            if self._health.error is None and log_waiting.admit("occupied") is not None:
                log.info("waiting: another trainer is running")
            stop.wait(self._retry_s)
        return False

    def announce(self, status: Mapping[str, Any]) -> None:
        """Change the status that the place shows, at the latest with the next renewal."""
        self._status = status
        self._renew()

    def check(self) -> None:
        """Raises TrainerReplacedError once the place is lost."""
        if not self._held:
            raise TrainerReplacedError("another trainer has taken over")

    def close(self) -> None:
        """Stop the thread and free the place."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._presence.release(self.holder)
        except redis.RedisError as error:
            log.info("the trainer's place expires by itself: %s", error)

    def _run(self) -> None:
        while not self._stopping.wait(self._renew_s):
            self._renew()

    def _renew(self) -> None:
        """Take or renew the place. After an error it counts as held or not, as before."""
        with self._renewing, self._health.turn():
            failing = [loop.fault for loop in self._loops.failing()]
            status = {**self._status, **({"failing": failing} if failing else {})}
            self._held = self._presence.hold(self.holder, status, LIFETIME_MS)
