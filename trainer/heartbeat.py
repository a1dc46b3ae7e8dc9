"""One trainer at a time: it takes a place in Redis, renews it while it is alive, and shows its status there."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any

import redis

from metarm.errors import MetaRMError
from metarm.shared.presence import TrainerPresence

log = logging.getLogger(__name__)
LIFETIME_MS = 10_000
RENEW_S = 2.0


class TrainerReplacedError(MetaRMError):
    """Another trainer has taken the place, and the job, because this one did not renew it in time."""


class Heartbeat:
    """Renews the trainer's place in Redis from a thread of its own."""

    def __init__(self, presence: TrainerPresence) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self._presence = presence
        self._status: Mapping[str, Any] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="heartbeat", daemon=True)
        self._held = False

    def take_place(self, status: Mapping[str, Any], stop: threading.Event) -> bool:
        """Wait until Redis answers and no other trainer is alive. False where `stop` was set first."""
        self._status = status
        said = ""
        while not stop.is_set():
            try:
                self._held = self._presence.hold(self.holder, self._status, LIFETIME_MS)
                reason = "another trainer is running"
            except redis.RedisError as error:
                reason = f"Redis does not answer: {error}"
            if self._held:
                self._thread.start()
                return True
            if reason != said:
                log.info("waiting: %s", reason)
                said = reason
            stop.wait(1.0)
        return False

    def announce(self, status: Mapping[str, Any]) -> None:
        """Change the status that the place shows, at the latest with the next renewal."""
        self._status = status
        self._renew_once()

    def check(self) -> None:
        """Raises TrainerReplacedError once the place is lost."""
        if not self._held:
            raise TrainerReplacedError("another trainer has taken over")

    def close(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._presence.release(self.holder)
        except redis.RedisError as error:
            log.info("the trainer's place expires by itself: %s", error)

    def _renew(self) -> None:
        while not self._stopping.wait(RENEW_S):
            self._renew_once()

    def _renew_once(self) -> None:
        try:
            self._held = self._presence.hold(self.holder, self._status, LIFETIME_MS)
        except redis.RedisError as error:
            log.warning("cannot renew the trainer's place: %s", error)
