"""Moves the pointer and the labels, for services with a read-only store and for the trainer's loop.

Its threads start before a run lowers its priority, because a cut-over must be quick.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from metarm.errors import CutOverAbortedError, InvalidRequestError
from metarm.runtime.loops import LoopHealth
from metarm.shared.coordinator import Coordinator
from metarm.shared.store_commands import Kind, StoreCommands
from metarm.store.versions import Label, VersionStore
from trainer.heartbeat import Heartbeat

log = logging.getLogger(__name__)
PROMOTIONS = 2


class StoreClerk:
    """Serves store commands while this trainer holds its place."""

    def __init__(
        self,
        commands: StoreCommands,
        coordinator: Coordinator,
        store: VersionStore,
        heartbeat: Heartbeat,
        loop: LoopHealth,
    ) -> None:
        """`loop` receives the outcome of the thread's turns."""
        self._commands = commands
        self._coordinator = coordinator
        self._store = store
        self._heartbeat = heartbeat
        self._health = loop
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="store-clerk", daemon=True)
        self._promoting = ThreadPoolExecutor(1, thread_name_prefix="promoting")

    def start(self) -> None:
        self._thread.start()
        self._promoting.submit(lambda: None).result()  # starts its thread with the current priority

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
        while not self._stopping.is_set():
            with self._health.turn():
                self._heartbeat.check()
                self._commands.serve_one(self._do)
            if self._health.error is not None:
                self._stopping.wait(self._health.pause_s)

    def _do(self, kind: Kind, arguments: Mapping[str, Any]) -> Any:
        log.info("command from a service: %s %s", kind, arguments)
        if kind == "activate":
            return self._coordinator.promote(arguments["version"], together=arguments["together"])
        if kind == "set_label":
            self._store.set_label(arguments["label"], Label(**arguments["target"]))
        elif kind == "remove_label":
            self._store.remove_label(arguments["label"])
        else:
            raise InvalidRequestError(f"the trainer has no command {kind!r}")
        return None
