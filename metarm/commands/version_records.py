"""Manifests as records: one row for each version, and the difference between two versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from metarm.errors import InvalidVersionError
from metarm.store.held_out import HeldOut, held_out_accuracy
from metarm.store.versions import VersionStore

NOT_COMPARED = ("name", "created", "seal", "digests", "probe")  # they always differ, or are compared by file


def rows(store: VersionStore) -> Iterator[dict[str, Any]]:
    """Every version that the store has ever held, oldest first. A version whose manifest cannot be read has the
    status `unreadable`."""
    current, labels, withdrawn = store.current(), store.labels(), store.withdrawn()
    for name, status in store.statuses().items():
        row: dict[str, Any] = {
            "name": name,
            "status": status,
            "current": name == current,
            "rolled_back": name in withdrawn,
            "labels": sorted(word for word, label in labels.items() if label.version == name),
        }
        try:
            yield {**row, **_from_manifest(store.manifest(name))}
        except (InvalidVersionError, AttributeError, TypeError, ValueError) as error:
            yield {**row, "status": "unreadable", "reasons": [str(error)]}


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in which two manifests differ, as pairs (None: missing), and the files that differ."""
    left, right = (flattened({k: v for k, v in m.items() if k not in NOT_COMPARED}) for m in (a, b))
    fields = {
        name: [left.get(name), right.get(name)]
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    }
    ours, theirs = a.get("digests") or {}, b.get("digests") or {}
    files = {
        "that differ": sorted(f for f in ours.keys() & theirs.keys() if ours[f] != theirs[f]),
        f"of {a['name']} alone": sorted(ours.keys() - theirs.keys()),
        f"of {b['name']} alone": sorted(theirs.keys() - ours.keys()),
    }
    return {"fields": fields, "files": files}


def with_numbered_reasons(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest with each reason of its verdict beside its remedy: reason 1, remedy 1, … Verdicts of earlier
    releases have no remedies."""
    verdict = manifest.get("verdict")
    if not isinstance(verdict, Mapping) or not verdict.get("reasons"):
        return manifest
    remedies = verdict.get("remedies") or []
    numbered: dict[str, Any] = {}
    for number, reason in enumerate(verdict["reasons"], 1):
        numbered[f"reason {number}"] = reason
        if number <= len(remedies):
            numbered[f"remedy {number}"] = remedies[number - 1]
    rest = {name: value for name, value in verdict.items() if name not in ("reasons", "remedies")}
    return {**manifest, "verdict": {**numbered, **rest}}


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _from_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    verdict, held_out = manifest.get("verdict") or {}, HeldOut.of(manifest)
    return {
        **{key: manifest.get(key) for key in ("parent", "job", "method", "created", "code_version")},
        "held_out_accuracy": held_out_accuracy(manifest),
        "held_out": held_out._asdict() if held_out else None,
        "forced": bool(verdict.get("forced")),
        "reasons": verdict.get("reasons", []),
    }
