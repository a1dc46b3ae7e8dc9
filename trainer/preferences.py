"""The preferences of a run: which file, and which of its pairs are trained on and which are held out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from metarm.errors import ConfigurationError
from metarm.figures import PairScores, share_interval
from metarm.records import Preference, Prompt
from metarm.store.origin import DEMO_SOURCE
from trainer.preference_files import read_pairs
from trainer.settings import LearningSettings

log = logging.getLogger(__name__)

FEW_HELD_OUT = 50
PACKAGED_SOURCE = "packaged demo pairs"
INSTEAD = "restore it, or choose the pairs of the next version with METARM_PREFERENCES"
HELD_OUT_SHARE = 0.15
MAX_HELD_OUT = 400
PACKAGED = Path(str(files("metarm") / "data" / "demo_preferences.jsonl.gz"))


@dataclass(frozen=True, slots=True)
class PreferenceSet:
    """Training pairs, held-out pairs of other prompts, the file they are from and its digest, the share of
    prompts that is held out, and the most pairs that are held out. `replaces` is the file and digest that the
    parent version was made of, if they are others."""

    source: str
    sha256: str
    train: list[Preference]
    held_out: list[Preference]
    held_out_share: float
    max_held_out: int
    replaces: Mapping[str, str] | None = None

    def record(self) -> dict[str, Any]:
        """For a manifest: enough to reproduce the split, and for children to inherit it."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "pairs": len(self.train),
            "held_out_pairs": len(self.held_out),
            "held_out_share": self.held_out_share,
            "max_held_out": self.max_held_out,
            **({"replaces": self.replaces} if self.replaces else {}),
        }


class Preferences:
    """The pairs of each run: those that a setting names, else those that the run's parent was made of."""

    def __init__(self, settings: LearningSettings) -> None:
        self._settings = settings
        self._file: Path | None = None  # the last one asked for
        self._loaded: tuple[tuple[str, float, int], PreferenceSet] | None = None  # the last file and split

    def stamp(self) -> object:
        """Differs once the file that was asked for last has changed, gone or come back."""
        try:
            found = self._file.stat() if self._file is not None else None
        except OSError as error:
            return self._file, error.errno
        return self._file, found and (found.st_mtime_ns, found.st_size, found.st_ino)

    def of_first(self) -> PreferenceSet:
        """The pairs of a first version. Raises ConfigurationError, also if the model is the user's and no pairs
        are named."""
        return self._load(self._settings.preferences or _packaged_for(self._settings.model), {})

    def of_child(self, parent: Mapping[str, Any]) -> PreferenceSet:
        """The pairs of a run from the version with the manifest `parent`. Raises ConfigurationError, also if
        the file that the parent was made of is missing or has changed and no setting names another."""
        name, made_of = parent.get("name"), parent.get("preferences") or {}
        if not _is_readable(made_of):
            raise ConfigurationError(f"{name} names its preferences in a form that this release does not read")
        file = self._file_of(parent, made_of)
        found = self._load(file, made_of)
        if not made_of or found.sha256 == made_of["sha256"]:
            return found
        before = f"{name} was made of {made_of['source']} (SHA-256 {made_of['sha256'][:12]}…)"
        if self._settings.preferences is None and file is not PACKAGED:
            raise ConfigurationError(f"{before}, and that file has changed: {INSTEAD}")
        log.warning("%s; its children are made of %s", before, found.source)
        return replace(found, replaces={key: made_of[key] for key in ("source", "sha256")})

    def _file_of(self, parent: Mapping[str, Any], made_of: Mapping[str, Any]) -> Path:
        if self._settings.preferences is not None:
            return self._settings.preferences
        if made_of.get("source", PACKAGED_SOURCE) == PACKAGED_SOURCE:
            return _packaged_for(parent.get("source"))
        self._file = Path(made_of["source"])
        if not self._file.is_file():
            raise ConfigurationError(
                f"there is no preference file {self._file}, which {parent.get('name')} was made of: {INSTEAD}"
            )
        return self._file

    def _load(self, file: Path, made_of: Mapping[str, Any]) -> PreferenceSet:
        recorded = made_of.get("held_out_share")
        share = self._settings.held_out_share or recorded or HELD_OUT_SHARE
        most = self._settings.max_held_out or made_of.get("max_held_out") or MAX_HELD_OUT
        if recorded and share > recorded and made_of.get("pairs", 1):
            raise ConfigurationError(
                f"METARM_HELD_OUT_SHARE is {share:g}, and the parent was trained with {recorded:g}: the gate "
                "would judge by pairs that the parent has learned. Leave it unset, or lower"
            )
        if recorded and share != recorded:
            log.warning("the held-out share is %g; of the parent it was %g: other pairs", share, recorded)
        self._file = file
        key = (digest_of(file), share, most)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = key, load_preferences(file, share, most)
        return replace(self._loaded[1], source=source_of(file))


def _is_readable(made_of: object) -> bool:
    """Whether the record of a manifest says which pairs a version was made of; an empty one: of none."""
    if not isinstance(made_of, Mapping):
        return False
    texts = all(isinstance(made_of.get(name), str) for name in ("source", "sha256"))
    share, most = made_of.get("held_out_share", HELD_OUT_SHARE), made_of.get("max_held_out", MAX_HELD_OUT)
    numbers = isinstance(share, int | float) and 0 < share < 1 and isinstance(most, int) and most > 0
    return not made_of or (texts and numbers)


def _packaged_for(model: str | None) -> Path:
    """The packaged demo pairs, which are of use to the packaged model alone."""
    if model not in (None, DEMO_SOURCE):
        raise ConfigurationError(
            f"no preferences are named for {model}: set METARM_PREFERENCES (`--preferences`) to a file of "
            "labelled pairs"
        )
    return PACKAGED


def load_preferences(
    path: Path | None, held_out_share: float = HELD_OUT_SHARE, max_held_out: int = MAX_HELD_OUT
) -> PreferenceSet:
    """Read a preference file (None: the packaged demo pairs) and split it by prompt.

    The split depends only on the prompts, so that the gate's pairs are never trained on in any run. Raises
    ConfigurationError that names the file and the row.
    """
    file = path or PACKAGED
    digest = digest_of(file)
    train: list[Preference] = []
    held_out: list[Preference] = []
    for preference in read_pairs(file):
        side = held_out if _unit_hash(preference.prompt) < held_out_share else train
        side.append(preference)
    held_out.sort(key=lambda p: hashlib.sha256(repr(p).encode()).digest())
    held_out = held_out[:max_held_out]
    if len(held_out) < FEW_HELD_OUT:
        log.warning("%s: %s", file, held_out_precision(len(held_out)))
    return PreferenceSet(source_of(file), digest, train, held_out, held_out_share, max_held_out)


def longer_wins(pairs: Sequence[Preference]) -> float:
    """The accuracy of a reward that is the length in characters: what length alone explains. A tie counts half.
    Needs one pair at least."""
    lengths = PairScores([len(pair.chosen) for pair in pairs], [len(pair.rejected) for pair in pairs])
    return lengths.accuracy


def held_out_precision(pairs: int) -> str:
    """What an accuracy measured on so many held-out pairs is worth, for people."""
    if not pairs:
        return "no pair is held out, so that no accuracy can be measured, and no candidate judged"
    low, high = share_interval(0.75, pairs)
    return f"{pairs} held-out pairs: an accuracy of .750 on them has the 95% interval {low:.3f} to {high:.3f}"


def or_error(load: Callable[[], PreferenceSet]) -> PreferenceSet | ConfigurationError:
    """The preferences, or the reason why they cannot be used. Scoring does not need them: the trainer starts
    without them, and each retrain fails with this reason."""
    try:
        return load()
    except ConfigurationError as error:
        log.error("retrains will fail: %s", error.message)
        return error


def digest_of(file: Path) -> str:
    """The SHA-256 of a file. Raises ConfigurationError."""
    if not file.is_file():
        raise ConfigurationError(f"there is no preference file {file}")
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error


def source_of(file: Path) -> str:
    """The name of a file in manifests: it must be found from another working directory."""
    return PACKAGED_SOURCE if file == PACKAGED else str(file.absolute())


def _unit_hash(prompt: Prompt) -> float:
    """A number in [0, 1) that depends only on the prompt."""
    return int.from_bytes(hashlib.sha256(repr(prompt).encode()).digest()[:8]) / 2**64
