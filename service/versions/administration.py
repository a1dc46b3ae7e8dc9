"""Writes to the version store: directly, or through the trainer if the folder is read-only here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from metarm.errors import ReadOnlyStoreError
from metarm.shared.coordinator import ATTEMPTS, PAUSE_S, Coordinator
from metarm.shared.store_commands import Kind, StoreCommands
from metarm.store.versions import Label, VersionStore

LABEL_TIMEOUT_S = 10.0


class Administration:
    """Blocks: not for the event loop. Each method raises what the store raises, and TrainerUnavailableError if
    the trainer is needed and does not do it."""

    def __init__(
        self, store: VersionStore, coordinator: Coordinator, commands: StoreCommands, *, prepare_s: float
    ) -> None:
        self._store = store
        self._coordinator = coordinator
        self._commands = commands
        self._activate_timeout_s = prepare_s + ATTEMPTS * (PAUSE_S + 5.0)

    def activate(self, version: str, *, together: bool) -> list[str]:
        """Make a version current, as Coordinator.promote does; return the servers that cut over together."""
        try:
            return self._coordinator.promote(version, together=together)
        except ReadOnlyStoreError:
            servers: list[str] = self._ask(
                "activate", self._activate_timeout_s, version=version, together=together
            )
            return servers

    def set_label(self, label: str, target: Label) -> None:
        try:
            self._store.set_label(label, target)
        except ReadOnlyStoreError:
            self._ask("set_label", LABEL_TIMEOUT_S, label=label, target=asdict(target))

    def remove_label(self, label: str) -> None:
        try:
            self._store.remove_label(label)
        except ReadOnlyStoreError:
            self._ask("remove_label", LABEL_TIMEOUT_S, label=label)

    def _ask(self, kind: Kind, timeout_s: float, **arguments: Any) -> Any:
        return self._commands.ask(kind, arguments, timeout_s)
