"""A version's manifest: facts about it, the SHA-256 of each of its files, and of the manifest itself (the
seal).

The seal is the last field: the digest of all fields before it. With it, `check` detects a manifest that was
edited or that `seal` did not write.
"""

from __future__ import annotations

import hashlib
import time
from calendar import timegm
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from metarm.errors import InvalidVersionError
from metarm.store.files import json_bytes, sync

MANIFEST = "manifest.json"
FORMAT = 2


def record(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that every manifest begins with, then `fields`."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"format": FORMAT, "name": name, "created": created, **fields}


def created_at(manifest: Mapping[str, Any]) -> float:
    """When a version was made, in Unix seconds. Raises KeyError, TypeError or ValueError if the manifest does
    not say so."""
    return timegm(time.strptime(manifest["created"], "%Y-%m-%dT%H:%M:%SZ"))


def seal(folder: Path, name: str, fields: Mapping[str, Any]) -> None:
    """Write the manifest of a folder whose other files are complete, and flush the whole folder to disk."""
    digests = {p.relative_to(folder).as_posix(): _sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    (folder / MANIFEST).write_bytes(_sealed({**record(name, fields), "digests": digests}))
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def check(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Raises InvalidVersionError, which names the first difference between `folder` and its manifest."""
    if manifest.get("format") != FORMAT or manifest.get("name") != name:
        raise InvalidVersionError(f"{name}: its manifest has another format, or names another version")
    if (folder / MANIFEST).is_symlink():
        raise InvalidVersionError(f"{name}: its {MANIFEST} is a symbolic link")
    if _sealed(manifest) != (folder / MANIFEST).read_bytes():
        raise InvalidVersionError(f"{name}: its {MANIFEST} was changed after it was written")
    digests = cast("dict[str, str]", manifest.get("digests", {}))
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    if present - {MANIFEST} != set(digests):
        odd = sorted((present - {MANIFEST}) ^ set(digests))
        raise InvalidVersionError(f"{name}: its files differ from the list in its manifest: {odd}")
    for file, digest in sorted(digests.items()):
        path = folder / file
        if path.is_symlink() or not path.is_file() or _sha256(path) != digest:
            raise InvalidVersionError(f"{name}: {file} does not have the digest in its manifest")


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    content = {key: value for key, value in manifest.items() if key != "seal"}
    return json_bytes({**content, "seal": hashlib.sha256(json_bytes(content)).hexdigest()})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
