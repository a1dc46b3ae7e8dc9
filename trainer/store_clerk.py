"""Moves the pointer and the labels, for services whose store is read-only and for the trainer's loop.

Its threads are started before those of a run get their low priority: a cut-over must be quick.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from metarm.errors import CutOverAbortedError, InvalidRequestError
from metarm.shared.coordinator import Coordinator
from metarm.shared.store_commands import Kind, StoreCommands
from metarm.store.versions import Label, VersionStore
from trainer.heartbeat import Heartbeat, TrainerReplacedError

log = logging.getLogger(__name__)
PAUSE_S = 1.0
PROMOTIONS = 2


class StoreClerk:
    """Serves store commands while this trainer holds its place."""

    def __init__(
        self, commands: StoreCommands, coordinator: Coordinator, store: VersionStore, heartbeat: Heartbeat
    ) -> None:
        self._commands = commands
        self._coordinator = coordinator
        self._store = store
        self._heartbeat = heartbeat
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="store-clerk", daemon=True)
        self._promoting = ThreadPoolExecutor(1, thread_name_prefix="promoting")

    def start(self) -> None:
        self._thread.start()
        self._promoting.submit(lambda: None).result()  # starts its thread, with this thread's present priority

    def close(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._promoting.shutdown()

    def promote(self, version: str) -> None:
        """Make a published version current on all live servers together; retries where a server was too slow.
        Raises CutOverAbortedError."""
        for left in reversed(range(PROMOTIONS)):
            try:
                self._promoting.submit(self._coordinator.promote, version).result()
                return
            except CutOverAbortedError as error:
                if error.retry_after_s is None or left == 0:
                    raise
                log.warning("trying again: %s", error.message)
                time.sleep(error.retry_after_s)

    def _serve(self) -> None:
        said = ""
        while not self._stopping.is_set():
            try:
                self._heartbeat.check()
                self._commands.serve_one(self._do)
                said = ""
            except (redis.RedisError, TrainerReplacedError) as error:
                if str(error) != said:
                    log.warning("no commands are taken: %s", error)
                said = str(error)
                self._stopping.wait(PAUSE_S)

    def _do(self, kind: Kind, arguments: Mapping[str, Any]) -> Any:
        log.info("asked to %s %s", kind, arguments)
        if kind == "activate":
            return self._coordinator.promote(arguments["version"], together=arguments["together"])
        if kind == "set_label":
            self._store.set_label(arguments["label"], Label(**arguments["target"]))
        elif kind == "remove_label":
            self._store.remove_label(arguments["label"])
        else:
            raise InvalidRequestError(f"the trainer knows no command {kind!r}")
        return None
