"""Retention: which versions keep their files, so that the store does not fill the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from metarm.errors import InvalidVersionError
from metarm.store.held_out import HeldOut, held_out_accuracy, same_pairs
from metarm.store.manifest import created_at
from metarm.store.versions import VersionStore

log = logging.getLogger(__name__)
Measured = tuple[HeldOut | None, float | None]  # the pairs, and the accuracy on them


def reasons_to_keep(
    store: VersionStore, leased: Mapping[str, int], keep_versions: int, grace_s: float
) -> dict[str, str | None]:
    """Every published version, oldest first, and the reason to keep its files, or None.

    It keeps the newest `keep_versions`, the current version and its parent, labelled and leased versions, the
    best on the held-out pairs of the current version, versions younger than `grace_s` seconds, and those with
    an unreadable manifest.
    """
    names = store.names()
    parents: dict[str, str | None] = {}
    measured: dict[str, Measured] = {}
    kept: dict[str, str | None] = {}
    for name in names:
        try:
            manifest = store.manifest(name)
            kept[name] = "young" if time.time() - created_at(manifest) < grace_s else None
            parents[name] = manifest.get("parent")
            measured[name] = HeldOut.of(manifest), held_out_accuracy(manifest)
        except (InvalidVersionError, KeyError, ValueError, TypeError, AttributeError):
            kept[name] = "its manifest cannot be read"
    current = store.current()
    reasons = dict.fromkeys(names[max(0, len(names) - keep_versions) :], f"one of the newest {keep_versions}")
    best = _best(measured, current)
    if best is not None:
        reasons[best] = "the best on its held-out pairs"
    parent = parents.get(current) if current is not None else None
    if parent is not None:
        reasons[parent] = "the parent of the current version"
    reasons |= dict.fromkeys(leased, "leased")
    reasons |= {label.version: f"labelled {word}" for word, label in store.labels().items()}
    if current is not None:
        reasons[current] = "current"
    return {name: reasons.get(name) or kept[name] for name in names}


class Retention:
    """Deletes the files of versions that no rule keeps."""

    def __init__(
        self, store: VersionStore, leased: Callable[[], Mapping[str, int]], keep_versions: int, grace_s: float
    ) -> None:
        """`leased` returns the number of leases on each version. Where it raises, nothing is deleted."""
        self._store = store
        self._leased = leased
        self._keep_versions = keep_versions
        self._grace_s = grace_s

    def reasons(self) -> dict[str, str | None]:
        """Every published version and the reason to keep it (`reasons_to_keep`)."""
        return reasons_to_keep(self._store, self._leased(), self._keep_versions, self._grace_s)

    def prune(self) -> list[str]:
        """Delete; return the versions that lost their files. Raises what `leased` raises, ReadOnlyStoreError
        and InvalidVersionError."""
        going = [name for name, reason in self.reasons().items() if reason is None]
        gone = [name for name in going if self._store.prune(name)]
        if gone:
            log.info("deleted the files of %s and kept their manifests", ", ".join(gone))
        return gone


def _best(measured: Mapping[str, Measured], current: str | None) -> str | None:
    """The version with the highest held-out accuracy among those measured on the same pairs as the current one
    (else the newest), the newest of equals."""
    reference = measured.get(current or "") or next(iter([*measured.values()][-1:]), None)
    rows = [
        (accuracy, place, name)
        for place, (name, (pairs, accuracy)) in enumerate(measured.items())
        if accuracy is not None and reference is not None and same_pairs(pairs, reference[0])
    ]
    return max(rows)[2] if rows else None
