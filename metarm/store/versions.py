"""The version store: reward-model checkpoints on disk, and the pointer to the current one.

    {root}/v000004/               a Hugging Face checkpoint and manifest.json (metarm/store/manifest.py)
    {root}/v000004/curve.json     how the version was trained, step by step; optional
    {root}/current                the pointer: a symbolic link to a version, moved by one atomic rename
    {root}/.withdrawn             JSON: versions that the pointer left for an older one
    {root}/labels.json            other names for versions: stable, canary, …
    {root}/rejected/v000005.json  the manifest of a candidate that was not published
    {root}/pruned/v000002.json    the manifest of a version whose files were deleted
    {root}/.staging/v000006/      a candidate that is being written
    {root}/.staging/.trash/       files that are being deleted
    {root}/.last                  the highest version number in use so far: no name is used twice
    {root}/.lock                  held while the pointer, a label or .last changes, or a version is pruned

Only this module knows the layout. No torch: callers save the weights into the staging folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from metarm.errors import InvalidVersionError, ReadOnlyStoreError, UnknownVersionError
from metarm.store.files import json_bytes, read_json, sync, write_durably
from metarm.store.manifest import MANIFEST, check, record, seal

CURVE = "curve.json"
NAME = re.compile(r"v[0-9]{6,18}")
LABELS = "labels.json"
Status = Literal["published", "rejected", "pruned"]
WITHDRAWN = ".withdrawn"


@dataclass(frozen=True, slots=True)
class Label:
    """The version that a label names. For `canary` also: the share of prompts that it takes, 0 to 1, and
    `shadow`: its scores are only recorded, and the current version answers."""

    version: str
    share: float = 0.0
    shadow: bool = False


class VersionStore:
    """A folder of versions, shared by the trainer, which writes, and any number of services."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staging = root / ".staging"
        self._rejected = root / "rejected"
        self._pruned = root / "pruned"

    def prepare(self) -> None:
        """Create the folders. Delete what a crashed writer left in staging."""
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
        """The version that the pointer names; None before the first version. Raises InvalidVersionError."""
        try:
            target = os.readlink(self.root / "current")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidVersionError(
                f"the pointer 'current' is not a symbolic link: {error.strerror}"
            ) from error
        if not NAME.fullmatch(target):
            raise InvalidVersionError(f"the pointer 'current' names {target!r}, which is not a version name")
        return target

    def path(self, name: str) -> Path:
        """The folder of a published version. Raises UnknownVersionError."""
        folder = self.root / name
        if NAME.fullmatch(name) and folder.is_symlink():
            raise UnknownVersionError(f"{name} is a symbolic link, not a version", known=self.names())
        if not NAME.fullmatch(name) or not folder.is_dir():
            raise UnknownVersionError(f"there is no version {name!r}", known=self.names())
        return folder

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a published, rejected or pruned version. Raises UnknownVersionError, and
        InvalidVersionError if it is unreadable."""
        if NAME.fullmatch(name):
            # in the order in which a version moves, so that one that is pruned meanwhile is found
            places = (
                self._rejected / f"{name}.json",
                self.root / name / MANIFEST,
                self._pruned / f"{name}.json",
            )
            for file in places:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    return read_json(file)
        self.path(name)
        raise InvalidVersionError(f"{name} has no {MANIFEST}")

    def curve(self, name: str) -> dict[str, Any] | None:
        """The training curve of a published version; None if it has none. Raises UnknownVersionError."""
        file = self.path(name) / CURVE
        return read_json(file) if file.is_file() else None

    def labels(self) -> dict[str, Label]:
        """Every label and its target. Raises InvalidVersionError."""
        file = self.root / LABELS
        if not file.is_file():
            return {}
        try:
            found = {label: Label(**fields) for label, fields in read_json(file).items()}
            usable = all(NAME.fullmatch(to.version) and 0 <= to.share <= 1 for to in found.values())
        except TypeError as error:
            raise InvalidVersionError(f"{LABELS} is not readable: {error}") from error
        if not usable:
            raise InvalidVersionError(f"{LABELS} has an invalid version name or share")
        return found

    def withdrawn(self) -> list[str]:
        """Versions that the pointer left for an older one, oldest first. A version that becomes current again
        is removed. Raises InvalidVersionError."""
        file = self.root / WITHDRAWN
        if not file.is_file():
            return []
        names = read_json(file).get("versions")
        if not isinstance(names, list) or not all(NAME.fullmatch(str(name)) for name in names):
            raise InvalidVersionError(f"{WITHDRAWN} is not a list of versions")
        return sorted(names, key=version_number)

    def rejected(self) -> list[str]:
        """Rejected candidates, oldest first."""
        return _stems(self._rejected)

    def pruned(self) -> list[str]:
        """Published versions of which only the manifest is left, oldest first."""
        published = set(self.names())
        return [name for name in _stems(self._pruned) if name not in published]

    def statuses(self) -> dict[str, Status]:
        """The status of every version and candidate, oldest first."""
        found: dict[str, Status] = dict.fromkeys(self.pruned(), "pruned")
        found |= dict.fromkeys(self.rejected(), "rejected")
        found |= dict.fromkeys(self.names(), "published")
        return {name: found[name] for name in sorted(found, key=version_number)}

    def verify(self, name: str) -> dict[str, Any]:
        """Check every file of a version against the digests in its manifest; return the manifest.

        Raises InvalidVersionError, which names the first difference.
        """
        folder, manifest = self.path(name), self.manifest(name)
        check(folder, name, manifest)
        return manifest

    # --- writing -------------------------------------------------------------------------------

    def stage(self) -> tuple[str, Path]:
        """A new version name, never used before, and the empty folder for its checkpoint."""
        with self._locked():
            counter = self.root / ".last"
            given_out = [version_number(n) for n in (*self.names(), *self.rejected(), *self.pruned())]
            number = 1 + max([int(counter.read_text()) if counter.exists() else 0, *given_out])
            write_durably(counter, str(number).encode())
            name = f"v{number:06d}"
        folder = self._staging / name
        folder.mkdir(parents=True)
        return name, folder

    def keep_curve(self, name: str, curve: Mapping[str, Any]) -> None:
        """Write a training curve into a staged folder."""
        (self._staging / name / CURVE).write_bytes(json_bytes(curve))

    def publish(self, name: str, manifest: Mapping[str, Any], *, activate: bool = True) -> None:
        """Turn a staged folder into a published version and, with `activate`, make it current.

        Its files are on disk before the version appears, and the version is on disk before the pointer moves.
        """
        folder = self._staging / name
        seal(folder, name, manifest)
        folder.rename(self.root / name)
        sync(self.root)
        if activate:
            self.activate(name)

    def reject(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Keep a candidate's manifest and delete its files."""
        write_durably(self._rejected / f"{name}.json", json_bytes(record(name, manifest)))
        shutil.rmtree(self._staging / name, ignore_errors=True)

    def discard(self, name: str) -> None:
        """Delete a staged candidate, if it is still there; its name stays used."""
        shutil.rmtree(self._staging / name, ignore_errors=True)

    def activate(self, name: str, only_if: Callable[[], bool] = lambda: True) -> bool:
        """Point `current` at a published version by one atomic rename, then sync it to disk.

        `only_if` is called directly before the rename, after every slow step: if it returns False, nothing
        changes and this returns False. Raises UnknownVersionError and ReadOnlyStoreError.
        """
        with self._locked():
            self.path(name)
            known = self._withdraw_for(name)
            link = self.root / f".current-{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            if not only_if():
                link.unlink()
                if known is not None:
                    self._write_withdrawn(known)
                return False
            link.rename(self.root / "current")
            sync(self.root)
            return True

    def check_writable(self) -> None:
        """Raises ReadOnlyStoreError if this process may not write to the store."""
        with self._locked():
            pass

    def prune(self, name: str) -> bool:
        """Delete a published version's files and keep its manifest. False, with nothing deleted, if it is
        current or labelled.

        Readers see the whole version or none: it moves to the trash by one rename. Raises
        UnknownVersionError and ReadOnlyStoreError.
        """
        with self._locked():
            if name == self.current() or name in {label.version for label in self.labels().values()}:
                return False
            folder = self.path(name)
            self._pruned.mkdir(exist_ok=True)
            write_durably(self._pruned / f"{name}.json", (folder / MANIFEST).read_bytes())
            trash = self._staging / ".trash"
            trash.mkdir(parents=True, exist_ok=True)
            away = trash / f"{name}-{os.getpid()}"
            folder.rename(away)
            sync(self.root)
        shutil.rmtree(away, ignore_errors=True)
        return True

    def _withdraw_for(self, name: str) -> list[str] | None:
        """Update .withdrawn for a move of the pointer to `name`. Returns its former content if it changed,
        else None."""
        try:
            before, known = self.current(), self.withdrawn()
        except InvalidVersionError:
            return None  # a broken pointer: the version that it leaves is unknown
        goes_back = before is not None and version_number(name) < version_number(before)
        now = {*known, *([before] if before and goes_back else [])} - {name}
        if now == set(known):
            return None
        self._write_withdrawn(sorted(now, key=version_number))
        return known

    def _write_withdrawn(self, names: Sequence[str]) -> None:
        write_durably(self.root / WITHDRAWN, json_bytes({"versions": names}))

    def set_label(self, label: str, target: Label) -> None:
        """Create or move a label. Raises UnknownVersionError and ReadOnlyStoreError."""
        with self._locked():
            self.path(target.version)
            self._write_labels({**self.labels(), label: target})

    def remove_label(self, label: str) -> None:
        """Raises UnknownVersionError if there is no such label, and ReadOnlyStoreError."""
        with self._locked():
            labels = self.labels()
            if label not in labels:
                raise UnknownVersionError(f"there is no label {label!r}", known=sorted(labels))
            del labels[label]
            self._write_labels(labels)

    def _write_labels(self, labels: Mapping[str, Label]) -> None:
        named = {name: asdict(target) for name, target in labels.items()}
        write_durably(self.root / LABELS, json_bytes(named))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            handle = open(self.root / ".lock", "a")  # noqa: SIM115 (closed below, after the lock)
        except OSError as error:
            raise ReadOnlyStoreError(
                f"the version store {self.root} cannot be written by this process: {error.strerror}"
            ) from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _stems(folder: Path) -> list[str]:
    """The versions whose manifests are in `folder`, oldest first."""
    found = [path.stem for path in folder.glob("v*.json") if NAME.fullmatch(path.stem)]
    return sorted(found, key=version_number)


def version_number(name: str) -> int:
    """v000012 → 12."""
    return int(name[1:])
