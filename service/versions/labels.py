"""Follows the labels in the store, and holds the versions they name in memory: no request reads the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from metarm.errors import TooManyLabelsError
from metarm.store.versions import Label, VersionStore
from service.versions.canary import CANARY
from service.versions.live import LiveVersions

SOURCE = "labels"
log = logging.getLogger(__name__)


class Labels:
    """Lives on the event loop. A store of an earlier release may have more labels than the limits permit: the
    canary's version and those of the first labels by name are then held, the others are loaded on request."""

    def __init__(
        self, store: VersionStore, live: LiveVersions, *, most_labels: int, most_versions: int
    ) -> None:
        """`most_versions` bounds the distinct versions that labels name."""
        self._store = store
        self._live = live
        self._most_labels = most_labels
        self._most_versions = most_versions
        self._held: list[str] = []
        self._left_out: list[str] = []

    async def follow(self) -> None:
        """Read the labels once. They apply immediately; the versions they name are loaded in the background.
        Raises InvalidVersionError or OSError if they cannot be read; then the last ones stay."""
        labels = self._store.labels()
        if labels is not self._live.labels:  # the store returns the same object while the file is unchanged
            self._live.labels, self._held = labels, self._chosen(labels)
        self._live.hold_soon(SOURCE, self._held)

    async def require_room(self, label: str, target: Label) -> None:
        """Raises TooManyLabelsError if this change would exceed a limit."""
        before = await asyncio.to_thread(self._store.labels)
        after = {**before, label: target}
        if len(after) > max(self._most_labels, len(before)):
            raise TooManyLabelsError(
                f"the limit of {self._most_labels} labels is reached (METARM_MAX_LABELS): remove one",
                limit=self._most_labels,
            )
        if len(_versions(after)) > max(self._most_versions, len(_versions(before))):
            raise TooManyLabelsError(
                f"the limit of {self._most_versions} versions that labels keep in memory is reached "
                "(METARM_MAX_LABELLED_VERSIONS): remove a label, or name one of these versions",
                limit=self._most_versions,
            )

    def _chosen(self, labels: Mapping[str, Label]) -> list[str]:
        """The versions to hold."""
        by_rank = sorted(labels, key=lambda label: (label != CANARY, label))
        versions = list(dict.fromkeys(labels[label].version for label in by_rank))
        left_out = versions[self._most_versions :]
        if left_out and left_out != self._left_out:
            log.warning(
                "labels name %d versions; %d stay in memory (METARM_MAX_LABELLED_VERSIONS), the others are "
                "loaded on request",
                len(versions),
                self._most_versions,
            )
        self._left_out = left_out
        return versions[: self._most_versions]


def _versions(labels: Mapping[str, Label]) -> set[str]:
    return {target.version for target in labels.values()}
