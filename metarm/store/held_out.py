"""Held-out accuracies in manifests, and the pairs that they were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class HeldOut(NamedTuple):
    """The held-out pairs of a version. Accuracies can be compared only where these are equal."""

    source: str
    sha256: str  # of the preference file
    share: float | None  # of its prompts; None in manifests of earlier releases
    pairs: int | None

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> HeldOut | None:
        """None if the manifest does not say."""
        record = manifest.get("preferences") or {}
        try:
            share, pairs = record.get("held_out_share"), record.get("held_out_pairs")
            return cls(
                str(record["source"]),
                str(record["sha256"]),
                None if share is None else float(share),
                None if pairs is None else int(pairs),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


def held_out_accuracy(manifest: Mapping[str, Any]) -> float | None:
    """The accuracy on held-out pairs in a manifest; None if it was not measured."""
    figures = (manifest.get("verdict") or {}).get("figures") or {}
    value = figures.get("held_out_accuracy", (manifest.get("metrics") or {}).get("held_out_accuracy"))
    return None if value is None else float(value)


def same_pairs(one: HeldOut | None, other: HeldOut | None) -> bool:
    """Whether two versions were measured on the same pairs, wherever their file was. Unknown pairs are taken
    to be the same as unknown ones only."""
    return (one and one[1:]) == (other and other[1:])
