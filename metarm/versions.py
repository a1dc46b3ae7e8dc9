"""The version store: reward-model checkpoints on disk, and the one pointer that says which is current.

    {root}/v000004/          a plain Hugging Face checkpoint + manifest.json: SHA-256 of all, and of itself
    {root}/v000001/curve.json  how a first version was trained, step by step
    {root}/current           a symbolic link to one version; moves by one atomic rename
    {root}/labels.json       other names for versions: stable, canary, …; replaced by a rename
    {root}/rejected/v000005.json   what became of a candidate that was not published
    {root}/.staging/v000006/ a candidate being written
    {root}/.last             the highest number ever given out; names are never reused
    {root}/.lock             held while a number is taken or the pointer moves

The only code that knows this layout. No torch: the caller saves the weights into the staging folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from metarm.errors import InvalidVersionError, ReadOnlyStoreError, UnknownVersionError

MANIFEST = "manifest.json"
CURVE = "curve.json"
NAME = re.compile(r"v\d{6,}")
MANIFEST_FORMAT = 2
LABELS = "labels.json"


@dataclass(frozen=True, slots=True)
class Label:
    """What a label names. Of `canary` besides: the share of prompts it concerns, and whether it answers
    them or is only recorded beside the current version's answer (shadow)."""

    version: str
    share: float = 0.0
    shadow: bool = False


class VersionStore:
    """One folder of versions, shared by the trainer (writes) and any number of services (read)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staging = root / ".staging"
        self._rejected = root / "rejected"

    def prepare(self) -> None:
        """Create the folders; drop what a crashed writer left unfinished."""
        self.root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir()
        self._rejected.mkdir(exist_ok=True)

    # --- reading -------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Published versions, oldest first."""
        if not self.root.is_dir():
            return []
        found = [p.name for p in self.root.iterdir() if NAME.fullmatch(p.name) and not p.is_symlink()]
        return sorted(found, key=version_number)

    def current(self) -> str | None:
        """The version the pointer names; None before the first one is published."""
        try:
            target = os.readlink(self.root / "current")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidVersionError(f"the pointer 'current' is no link: {error.strerror}") from error
        if not NAME.fullmatch(target):
            raise InvalidVersionError(f"the pointer 'current' names {target!r}, which is no version")
        return target

    def path(self, name: str) -> Path:
        """The folder of a published version. Raises UnknownVersionError."""
        folder = self.root / name
        if not NAME.fullmatch(name) or folder.is_symlink() or not folder.is_dir():
            raise UnknownVersionError(f"there is no version {name!r}", known=self.names())
        return folder

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a published or rejected version. Raises UnknownVersionError."""
        rejected = self._rejected / f"{name}.json"
        if NAME.fullmatch(name) and rejected.is_file():
            return _read_json(rejected)
        file = self.path(name) / MANIFEST
        if not file.is_file():
            raise InvalidVersionError(f"{name} has no {MANIFEST}")
        return _read_json(file)

    def curve(self, name: str) -> dict[str, Any] | None:
        """The training curve of a published version; None where it has none. Raises UnknownVersionError."""
        file = self.path(name) / CURVE
        return _read_json(file) if file.is_file() else None

    def labels(self) -> dict[str, Label]:
        """Every label and what it names."""
        file = self.root / LABELS
        if not file.is_file():
            return {}
        try:
            return {label: Label(**fields) for label, fields in _read_json(file).items()}
        except TypeError as error:
            raise InvalidVersionError(f"{LABELS} is not readable: {error}") from error

    def rejected(self) -> list[str]:
        if not self._rejected.is_dir():
            return []
        return sorted((p.stem for p in self._rejected.glob("v*.json")), key=version_number)

    def verify(self, name: str) -> dict[str, Any]:
        """The manifest, once every file it lists has the digest it lists, and no other file is there.

        Raises InvalidVersionError naming the first file that differs.
        """
        folder, manifest = self.path(name), self.manifest(name)
        if manifest.get("format") != MANIFEST_FORMAT or manifest.get("name") != name:
            raise InvalidVersionError(f"{name}: its manifest is of another format or another version")
        if _sealed(manifest) != (folder / MANIFEST).read_bytes():
            raise InvalidVersionError(f"{name}: its {MANIFEST} is not as it was written")
        digests = cast("dict[str, str]", manifest.get("digests", {}))
        present = {
            p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()
        }
        if present - {MANIFEST} != set(digests):
            odd = sorted((present - {MANIFEST}) ^ set(digests))
            raise InvalidVersionError(f"{name}: its files are not those its manifest lists: {odd}")
        for file, digest in sorted(digests.items()):
            path = folder / file
            if path.is_symlink() or _sha256(path) != digest:
                raise InvalidVersionError(f"{name}: {file} does not have the digest its manifest lists")
        return manifest

    # --- writing -------------------------------------------------------------------------------

    def stage(self) -> tuple[str, Path]:
        """A new name, never used before, and the empty folder to save its checkpoint in."""
        with self._locked():
            counter = self.root / ".last"
            given_out = [version_number(n) for n in (*self.names(), *self.rejected())]
            number = 1 + max([int(counter.read_text()) if counter.exists() else 0, *given_out])
            _write_durably(counter, str(number).encode())
            name = f"v{number:06d}"
        folder = self._staging / name
        folder.mkdir(parents=True)
        return name, folder

    def keep_curve(self, name: str, curve: Mapping[str, Any]) -> None:
        """Put a training curve into a staged folder."""
        (self._staging / name / CURVE).write_bytes(_pretty(curve))

    def publish(self, name: str, manifest: Mapping[str, Any], *, activate: bool = True) -> None:
        """Turn a staged folder into a published version and, unless told otherwise, make it current.

        Files, digests and manifest are on disk before the version appears, and the version is on
        disk before the pointer moves: at no moment is anything half published.
        """
        folder = self._staging / name
        digests = {
            p.relative_to(folder).as_posix(): _sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()
        }
        record = {"format": MANIFEST_FORMAT, "name": name, "created": _now(), **manifest, "digests": digests}
        (folder / MANIFEST).write_bytes(_sealed(record))
        for path in [*folder.rglob("*"), folder]:
            _sync(path)
        folder.rename(self.root / name)
        _sync(self.root)
        if activate:
            self.activate(name)

    def reject(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Keep a candidate's manifest, drop its weights."""
        record = {"format": MANIFEST_FORMAT, "name": name, "created": _now(), **manifest}
        _write_durably(self._rejected / f"{name}.json", _pretty(record))
        shutil.rmtree(self._staging / name, ignore_errors=True)

    def discard(self, name: str) -> None:
        """Drop a staged candidate that came to nothing; its name stays used."""
        shutil.rmtree(self._staging / name, ignore_errors=True)

    def activate(self, name: str) -> None:
        """Point `current` at a published version: one atomic rename, then durable.

        Raises UnknownVersionError, or ReadOnlyStoreError where this process may not write.
        """
        self.path(name)
        with self._locked():
            link = self.root / f".current-{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            link.rename(self.root / "current")
            _sync(self.root)

    def check_writable(self) -> None:
        """Raises ReadOnlyStoreError where this process may not write."""
        with self._locked():
            pass

    def set_label(self, label: str, target: Label) -> None:
        """Move or make a label. Raises UnknownVersionError, or ReadOnlyStoreError."""
        self.path(target.version)
        with self._locked():
            self._write_labels({**self.labels(), label: target})

    def remove_label(self, label: str) -> None:
        """Raises UnknownVersionError where there is none, or ReadOnlyStoreError."""
        with self._locked():
            labels = self.labels()
            if label not in labels:
                raise UnknownVersionError(f"there is no label {label!r}", known=sorted(labels))
            del labels[label]
            self._write_labels(labels)

    def _write_labels(self, labels: Mapping[str, Label]) -> None:
        record = {name: asdict(target) for name, target in labels.items()}
        _write_durably(self.root / LABELS, _pretty(record))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            handle = open(self.root / ".lock", "a")  # noqa: SIM115 (closed below, after the lock)
        except OSError as error:
            raise ReadOnlyStoreError(
                f"the version store {self.root} cannot be written from here: {error.strerror}"
            ) from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def version_number(name: str) -> int:
    """v000012 → 12."""
    return int(name[1:])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InvalidVersionError(f"{path.name} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidVersionError(f"{path.name} is not a JSON object")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_durably(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    _sync(aside)
    aside.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest whose last field is the digest of all before it."""
    content = {key: value for key, value in manifest.items() if key != "seal"}
    return _pretty({**content, "seal": hashlib.sha256(_pretty(content)).hexdigest()})


def _pretty(record: Mapping[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_INDENT_2)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
