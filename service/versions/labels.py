"""Follows the labels in the store, and holds the versions they name in memory: no request reads the disk."""

from __future__ import annotations

from metarm.store.versions import VersionStore
from service.versions.live import LiveVersions

SOURCE = "labels"


class Labels:
    """Lives on the event loop."""

    def __init__(self, store: VersionStore, live: LiveVersions) -> None:
        self._store = store
        self._live = live

    async def follow(self) -> None:
        """Read the labels once. They apply immediately; the versions they name are loaded in the background.
        Raises InvalidVersionError or OSError if they cannot be read; then the last ones stay."""
        self._live.labels = self._store.labels()
        self._live.hold_soon(SOURCE, {target.version for target in self._live.labels.values()})
