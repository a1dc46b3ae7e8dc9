"""The version store: reward-model checkpoints on disk, and the pointer to the current one.

    {root}/v000004/               a Hugging Face checkpoint and manifest.json (metarm/store/manifest.py)
    {root}/v000004/curve.json     how the version was trained, step by step; optional
    {root}/current                the pointer: a symbolic link to a version, moved by one atomic rename
    {root}/.withdrawn             JSON: versions that the pointer left for an older one
    {root}/labels.json            other names for versions: stable, canary, …
    {root}/rejected/v000005.json  the manifest of a candidate that was not published
    {root}/evaluations/           what `metarm evaluate` measured (metarm/store/evaluations.py)
    {root}/pruned/v000002.json    the manifest of a version whose files were deleted
    {root}/.staging/v000006/      a candidate that is being written
    {root}/.staging/.trash/       files that are being deleted
    {root}/.last                  the highest version number in use so far: no name is used twice
    {root}/.lock                  held while the pointer, a label or .last changes, or a version is pruned

Only this module knows the layout. No torch: callers save the weights into the staging folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from metarm.errors import ConfigurationError, InvalidVersionError, ReadOnlyStoreError, UnknownVersionError
from metarm.store.files import json_bytes, read_json, sync, write_durably
from metarm.store.manifest import MANIFEST, check, record, seal

CURVE = "curve.json"
NAME = re.compile(r"v[0-9]{6,18}")
LABELS = "labels.json"
Status = Literal["published", "rejected", "pruned"]
WITHDRAWN = ".withdrawn"
MOST_NAMED = 20  # versions or labels in an error
MOST_WITHDRAWN = 100  # names in .withdrawn, apart from those of versions on disk
SETTLED_S = 1.0  # a file this old has another time stamp after a change


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
        self._labels: tuple[tuple[int, ...], Mapping[str, Label]] | None = (
            None  # of which file, and its content
        )

    def prepare(self) -> None:
        """Create the folders. Delete what a crashed writer left in staging. Raises ConfigurationError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging.mkdir(exist_ok=True)
            self._rejected.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the version store {self.root} cannot be written ({error.strerror}): set METARM_DATA_DIR"
            ) from error

    # --- reading -------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Published versions, oldest first."""
        return _names_in(self.root)

    def current(self) -> str | None:
        """The version that the pointer names; None before the first version. Raises InvalidVersionError; its
        cause is an OSError other than EINVAL if the store cannot be read."""
        try:
            target = os.readlink(self.root / "current")
        except FileNotFoundError:
            return None
        except OSError as error:
            fault = "is not a symbolic link" if error.errno == errno.EINVAL else "cannot be read"
            raise InvalidVersionError(f"the pointer 'current' {fault}: {error.strerror}") from error
        if not NAME.fullmatch(target):
            raise InvalidVersionError(f"the pointer 'current' names {target!r}, which is not a version name")
        return target

    def path(self, name: str) -> Path:
        """The folder of a published version. Raises UnknownVersionError."""
        folder = self.root / name
        if NAME.fullmatch(name) and folder.is_symlink():
            raise UnknownVersionError(
                f"{name} is a symbolic link, not a version", **some("known", self.names())
            )
        if not NAME.fullmatch(name) or not folder.is_dir():
            why = f"there is no version {name!r}"
            for status, place in (("rejected", self._rejected), ("pruned", self._pruned)):
                if NAME.fullmatch(name) and (place / f"{name}.json").is_file():
                    why = f"{name} was {status}: only its manifest is left"
            raise UnknownVersionError(why, **some("known", self.names()))
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

    def labels(self) -> Mapping[str, Label]:
        """Every label and its target; the file is read again if it has changed. Raises InvalidVersionError."""
        file = self.root / LABELS
        if not file.is_file():
            return {}
        found = file.stat()
        signature = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._labels is None or self._labels[0] != signature:
            labels = self._read_labels(file)
            if time.time() - found.st_mtime < SETTLED_S:
                return labels
            self._labels = signature, labels
        return self._labels[1]

    @staticmethod
    def _read_labels(file: Path) -> Mapping[str, Label]:
        try:
            found = {label: Label(**fields) for label, fields in read_json(file).items()}
            usable = all(NAME.fullmatch(to.version) and 0 <= to.share <= 1 for to in found.values())
        except TypeError as error:
            raise InvalidVersionError(f"{LABELS} is not readable: {error}") from error
        if not usable:
            raise InvalidVersionError(f"{LABELS} has an invalid version name or share")
        return found

    def resolve(self, word: str) -> str:
        """The version that `current` or a label names; any other word is a version's name. Raises
        UnknownVersionError if there is no current version."""
        if word == "current":
            name = self.current()
            if name is None:
                raise UnknownVersionError("no version is current")
            return name
        label = self.labels().get(word)
        return word if label is None else label.version

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
        return _names_in(self._rejected, ".json")

    def pruned(self) -> list[str]:
        """Published versions of which only the manifest is left, oldest first."""
        published = set(self.names())
        return [name for name in _names_in(self._pruned, ".json") if name not in published]

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
        self._write_withdrawn(self._still_withdrawn(sorted(now, key=version_number)))
        return known

    def _still_withdrawn(self, names: Sequence[str]) -> Sequence[str]:
        """`names` without the oldest of which no files are left."""
        if len(names) <= MOST_WITHDRAWN:
            return names
        on_disk, newest = set(self.names()), set(names[-MOST_WITHDRAWN:])
        return [name for name in names if name in on_disk or name in newest]

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
            labels = dict(self.labels())
            if labels.pop(label, None) is None:
                raise UnknownVersionError(f"there is no label {label!r}", **some("known", sorted(labels)))
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


def _names_in(folder: Path, suffix: str = "") -> list[str]:
    """The versions that entries of `folder` are named after, oldest first; none if there is no such folder. The
    kernel lists names and kinds of entries in one: thousands take milliseconds."""
    try:
        with os.scandir(folder) as entries:
            found = [
                entry.name.removesuffix(suffix)
                for entry in entries
                if entry.name.endswith(suffix) and not entry.is_symlink()
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(filter(NAME.fullmatch, found), key=version_number)


def some(key: str, names: Sequence[str]) -> dict[str, Any]:
    """Details of an error: the last MOST_NAMED `names`; if there are more, their number as `{key}_count`."""
    cut = {f"{key}_count": len(names)} if len(names) > MOST_NAMED else {}
    return {key: list(names[-MOST_NAMED:]), **cut}


def version_number(name: str) -> int:
    """v000012 → 12."""
    return int(name[1:])
