"""The version store: reward-model checkpoints on disk, and the one pointer that says which is current.

    {root}/v000004/          a plain Hugging Face checkpoint + manifest.json: SHA-256 of all, and of itself
    {root}/v000001/curve.json  how a first version was trained, step by step
    {root}/current           a symbolic link to one version; moves by one atomic rename
    {root}/.withdrawn        versions that the pointer left for an older one, as JSON
    {root}/labels.json       other names for versions: stable, canary, …; replaced by a rename
    {root}/rejected/v000005.json   what became of a candidate that was not published
    {root}/pruned/v000002.json     the manifest of a version whose weights were let go of
    {root}/.staging/v000006/ a candidate being written; .staging/.trash what is being deleted
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
from typing import Any, Literal, cast

import orjson

from metarm.errors import InvalidVersionError, ReadOnlyStoreError, UnknownVersionError

MANIFEST = "manifest.json"
CURVE = "curve.json"
NAME = re.compile(r"v\d{6,}")
MANIFEST_FORMAT = 2
LABELS = "labels.json"
Status = Literal["published", "rejected", "pruned"]
WITHDRAWN = ".withdrawn"


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
        self._pruned = root / "pruned"

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
        if NAME.fullmatch(name) and folder.is_symlink():
            raise UnknownVersionError(f"{name} is a symbolic link, which is no version", known=self.names())
        if not NAME.fullmatch(name) or not folder.is_dir():
            raise UnknownVersionError(f"there is no version {name!r}", known=self.names())
        return folder

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a published, rejected or pruned version. Raises UnknownVersionError."""
        if NAME.fullmatch(name):
            # in the order in which a version moves: one that is pruned meanwhile is found all the same
            places = (
                self._rejected / f"{name}.json",
                self.root / name / MANIFEST,
                self._pruned / f"{name}.json",
            )
            for file in places:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    return _read_json(file)
        self.path(name)
        raise InvalidVersionError(f"{name} has no {MANIFEST}")

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
            found = {label: Label(**fields) for label, fields in _read_json(file).items()}
            usable = all(NAME.fullmatch(to.version) and 0 <= to.share <= 1 for to in found.values())
        except TypeError as error:
            raise InvalidVersionError(f"{LABELS} is not readable: {error}") from error
        if not usable:
            raise InvalidVersionError(f"{LABELS} names what is no version, or a share that is none")
        return found

    def withdrawn(self) -> list[str]:
        """Versions that were current until an older one was made current, oldest first; one that is
        made current again is no longer among them."""
        file = self.root / WITHDRAWN
        if not file.is_file():
            return []
        names = _read_json(file).get("versions")
        if not isinstance(names, list) or not all(NAME.fullmatch(str(name)) for name in names):
            raise InvalidVersionError(f"{WITHDRAWN} is not a list of versions")
        return sorted(names, key=version_number)

    def rejected(self) -> list[str]:
        return _stems(self._rejected)

    def pruned(self) -> list[str]:
        """Versions that were published and whose manifests alone are left."""
        published = set(self.names())
        return [name for name in _stems(self._pruned) if name not in published]

    def statuses(self) -> dict[str, Status]:
        """Every version there was and what became of it, oldest first."""
        found: dict[str, Status] = dict.fromkeys(self.pruned(), "pruned")
        found |= dict.fromkeys(self.rejected(), "rejected")
        found |= dict.fromkeys(self.names(), "published")
        return {name: found[name] for name in sorted(found, key=version_number)}

    def verify(self, name: str) -> dict[str, Any]:
        """The manifest, once every file it lists has the digest it lists, and no other file is there.

        Raises InvalidVersionError naming the first file that differs.
        """
        folder, manifest = self.path(name), self.manifest(name)
        if manifest.get("format") != MANIFEST_FORMAT or manifest.get("name") != name:
            raise InvalidVersionError(f"{name}: its manifest is of another format or another version")
        if (folder / MANIFEST).is_symlink():
            raise InvalidVersionError(f"{name}: its {MANIFEST} is a symbolic link")
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
            if path.is_symlink() or not path.is_file() or _sha256(path) != digest:
                raise InvalidVersionError(f"{name}: {file} does not have the digest its manifest lists")
        return manifest

    # --- writing -------------------------------------------------------------------------------

    def stage(self) -> tuple[str, Path]:
        """A new name, never used before, and the empty folder to save its checkpoint in."""
        with self._locked():
            counter = self.root / ".last"
            given_out = [version_number(n) for n in (*self.names(), *self.rejected(), *self.pruned())]
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
        with self._locked():
            self.path(name)
            self._withdraw_for(name)
            link = self.root / f".current-{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            link.rename(self.root / "current")
            _sync(self.root)

    def check_writable(self) -> None:
        """Raises ReadOnlyStoreError where this process may not write."""
        with self._locked():
            pass

    def prune(self, name: str) -> bool:
        """Let go of a published version's files and keep its manifest; False where it has meanwhile become
        current or got a label, and stays.

        Readers see the whole version or none: it leaves its place by one rename, and is deleted elsewhere.
        """
        with self._locked():
            if name == self.current() or name in {label.version for label in self.labels().values()}:
                return False
            folder = self.path(name)
            self._pruned.mkdir(exist_ok=True)
            _write_durably(self._pruned / f"{name}.json", (folder / MANIFEST).read_bytes())
            trash = self._staging / ".trash"
            trash.mkdir(parents=True, exist_ok=True)
            away = trash / f"{name}-{os.getpid()}"
            folder.rename(away)
            _sync(self.root)
        shutil.rmtree(away, ignore_errors=True)
        return True

    def _withdraw_for(self, name: str) -> None:
        """Note that the pointer is about to leave a version for `name`, an older one; or comes back to it."""
        try:
            before, known = self.current(), self.withdrawn()
        except InvalidVersionError:
            return  # activating repairs a broken pointer: what it left cannot be known
        goes_back = before is not None and version_number(name) < version_number(before)
        now = {*known, *([before] if before and goes_back else [])} - {name}
        if now != set(known):
            record = {"versions": sorted(now, key=version_number)}
            _write_durably(self.root / WITHDRAWN, _pretty(record))

    def set_label(self, label: str, target: Label) -> None:
        """Move or make a label. Raises UnknownVersionError, or ReadOnlyStoreError."""
        with self._locked():
            self.path(target.version)
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


def _stems(folder: Path) -> list[str]:
    """The versions whose manifests `folder` keeps, oldest first."""
    found = [path.stem for path in folder.glob("v*.json") if NAME.fullmatch(path.stem)]
    return sorted(found, key=version_number)


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
