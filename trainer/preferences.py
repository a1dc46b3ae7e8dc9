"""Preference files → Preference records: TRL's format, plain or conversational, through `datasets`."""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import json
import logging
import math
import re
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from metarm.errors import ConfigurationError
from metarm.figures import share_interval
from metarm.records import Message, Preference, Prompt
from metarm.store.origin import DEMO_SOURCE
from trainer.settings import LearningSettings

log = logging.getLogger(__name__)

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
COLUMNS = ("prompt", "chosen", "rejected", "margin")
# names that other formats give to the prompt
PROMPT_NAMES = frozenset(
    (
        *("context", "conversation", "conversations", "history", "input", "inputs", "instruction"),
        *("instructions", "problem", "prompts", "query", "queries", "question", "questions", "user_input"),
        *("user_prompt",),
    )
)
FEW_HELD_OUT = 50
UNREADABLE = (ValueError, OSError, EOFError, StopIteration, zlib.error)  # raised for broken files
PACKAGED_SOURCE = "packaged demo pairs"
HELD_OUT_SHARE = 0.15
MAX_HELD_OUT = 400
LINE_END = b"\n"
ROW = re.compile(r" in row \d+")
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
        self._loaded: tuple[tuple[str, float, int], PreferenceSet] | None = None  # the last file and split

    def of_first(self) -> PreferenceSet:
        """The pairs of a first version. Raises ConfigurationError, also if the model is the user's and no pairs
        are named."""
        return self._load(self._settings.preferences or _packaged_for(self._settings.model), {})

    def of_child(self, parent: Mapping[str, Any]) -> PreferenceSet:
        """The pairs of a run from the version with the manifest `parent`. Raises ConfigurationError, also if
        the file that the parent was made of is missing or has changed and no setting names another."""
        made_of = parent.get("preferences") or {}
        if self._settings.preferences is None and not made_of:
            return self._load(_packaged_for(parent.get("source")), {})
        inherited = Path(made_of["source"]) if made_of and made_of["source"] != PACKAGED_SOURCE else PACKAGED
        found = self._load(self._settings.preferences or inherited, made_of)
        if not made_of or found.sha256 == made_of["sha256"]:
            return found
        before, name = f"{made_of['source']} (SHA-256 {made_of['sha256'][:12]}…)", parent.get("name")
        if self._settings.preferences is None and inherited is not PACKAGED:
            raise ConfigurationError(
                f"{name} was made of {before}, and that file has changed: restore it, or choose the pairs of "
                "the next version with METARM_PREFERENCES"
            )
        log.warning("%s was made of %s; its children are made of %s", name, before, found.source)
        return replace(found, replaces={key: made_of[key] for key in ("source", "sha256")})

    def _load(self, file: Path, made_of: Mapping[str, Any]) -> PreferenceSet:
        share = self._settings.held_out_share or made_of.get("held_out_share") or HELD_OUT_SHARE
        most = self._settings.max_held_out or made_of.get("max_held_out") or MAX_HELD_OUT
        key = (_digest_of(file), share, most)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = key, load_preferences(file, share, most)
        return replace(self._loaded[1], source=_source_of(file))


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
    digest = _digest_of(file)
    rows = _rows(file)
    train: list[Preference] = []
    held_out: list[Preference] = []
    for number, row in enumerate(rows, 1):
        try:
            preference = preference_of(row)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{file}, row {number}: {error}") from error
        side = held_out if _unit_hash(preference.prompt) < held_out_share else train
        side.append(preference)
    held_out.sort(key=lambda p: hashlib.sha256(repr(p).encode()).digest())
    if not any(
        pair.prompt.strip() if isinstance(pair.prompt, str) else pair.prompt for pair in (*train, *held_out)
    ):
        raise ConfigurationError(f"{file}: every prompt is empty")
    held_out = held_out[:max_held_out]
    if len(held_out) < FEW_HELD_OUT:
        log.warning("%s: %s", file, held_out_precision(len(held_out)))
    return PreferenceSet(_source_of(file), digest, train, held_out, held_out_share, max_held_out)


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


def _digest_of(file: Path) -> str:
    if not file.is_file():
        raise ConfigurationError(f"there is no preference file {file}")
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error


def _source_of(file: Path) -> str:
    """The name of a file in manifests: it must be found from another working directory."""
    return PACKAGED_SOURCE if file == PACKAGED else str(file.absolute())


def preference_of(row: Mapping[str, Any]) -> Preference:
    """One row of TRL's preference format. The prompt is explicit, or the common beginning of both sides.

    Raises ValueError for a row that has neither, and KeyError or TypeError."""
    chosen, rejected = row["chosen"], row["rejected"]
    prompt: Prompt
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = _split_text(row.get("prompt"), chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        prompt, chosen, rejected = _split_messages(row.get("prompt"), chosen, rejected)
    else:
        raise TypeError("'chosen' and 'rejected' must both be texts, or both lists of messages")
    margin = float(row.get("margin") or 0.0)
    if not math.isfinite(margin):
        raise ValueError(f"its margin is {margin}")
    return Preference(prompt, chosen, rejected, margin)


def _split_text(prompt: Any, chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    if prompt is not None:
        return _checked_prompt(prompt), chosen, rejected
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared > 0 and not chosen[shared - 1].isspace():  # never in the middle of a word
        shared -= 1
    if not shared:
        raise ValueError("it has no prompt: 'prompt' is missing, and both sides share no beginning")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _split_messages(
    prompt: Any, chosen: Sequence[Message], rejected: Sequence[Message]
) -> tuple[Prompt, str, str]:
    if prompt is None:
        if len(chosen) == 1:
            raise ValueError("it has no prompt: 'prompt' is missing, and both sides have one message only")
        if list(chosen[:-1]) != list(rejected[:-1]):
            raise ValueError(
                "'chosen' and 'rejected' differ before their last message, and there is no 'prompt'"
            )
        prompt, chosen, rejected = list(chosen[:-1]), chosen[-1:], rejected[-1:]
    answers = []
    for side in (chosen, rejected):
        if len(side) != 1 or side[0]["role"] != "assistant":
            raise ValueError("'chosen' and 'rejected' must each end in one assistant message")
        answers.append(_text(side[0]["content"]))
    return _checked_prompt(prompt), answers[0], answers[1]


def _checked_prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise TypeError(f"'prompt' must be a text or a list of messages, not {prompt!r}")
    return [Message(role=_text(m["role"]), content=_text(m["content"])) for m in prompt]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a message's role and content must be texts, not {value!r}")
    return value


def _rows(file: Path) -> Sequence[Mapping[str, Any]]:
    import datasets  # takes seconds to import, and is needed only here

    suffix = next((s for s in reversed(file.suffixes) if s != ".gz"), "")
    if suffix not in BUILDERS:
        raise ConfigurationError(f"{file}: a preference file ends in .jsonl, .json (.gz) or .parquet")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # it logs what it raises
    with tempfile.TemporaryDirectory(prefix="metarm-preferences-") as cache:
        try:
            data = datasets.load_dataset(
                BUILDERS[suffix],
                data_files=glob.escape(str(file)),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
            )
        except UNREADABLE as error:
            raise _unreadable(file, str(error) or "it holds no rows") from error
        except datasets.exceptions.DatasetGenerationError as error:
            raise _unreadable(file, str(error.__cause__ or error)) from error
        missing = {"chosen", "rejected"} - set(data.column_names)
        if missing:
            raise ConfigurationError(f"{file} has no column {' and '.join(sorted(missing))}")
        _check_columns(file, data.column_names)
        wanted = [name for name in COLUMNS if name in data.column_names]
        try:
            return cast("list[dict[str, Any]]", data.select_columns(wanted).to_list())
        except UnicodeDecodeError as error:
            raise _unreadable(file, str(error)) from error


def _unreadable(file: Path, reason: str) -> ConfigurationError:
    """Names the line where the JSON is wrong. `reason` is that of a library, whose rows count from 0 and in a
    part of the file."""
    fault = None
    with contextlib.suppress(*UNREADABLE):
        fault = None if ".parquet" in file.suffixes else _json_fault(file)
    if fault is not None:
        return ConfigurationError(f"{file}, {fault}")
    return ConfigurationError(f"{file} cannot be read: {ROW.sub('', reason)}")


def _json_fault(file: Path) -> str | None:
    """The first line, from 1, that is no JSON, and why; None if there is none."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
        content = opened.read()
    if ".jsonl" not in file.suffixes:  # one document, unless more follows the first value
        fault = _fault_of(content)
        if fault is None or "Extra data" not in fault:
            return fault
    for number, line in enumerate(content.splitlines(), 1):
        fault = _fault_of(line) if line.strip() else None
        if fault is not None:
            return fault.replace("line 1", f"line {number}", 1)
        if line.strip() and not line.lstrip().startswith(b"{"):
            return f"line {number}: it is no JSON object"
    return None


def _fault_of(text: bytes) -> str | None:
    """Where in `text` the JSON is wrong, and why; None if it is not."""
    try:
        json.loads(text.decode())
    except json.JSONDecodeError as error:
        return f"line {error.lineno}: it is no JSON: {error.msg} (column {error.colno})"
    except UnicodeDecodeError as error:
        return f"line {text.count(LINE_END, 0, error.start) + 1}: it is not UTF-8"
    return None


def _check_columns(file: Path, found: Sequence[str]) -> None:
    """Name the columns that are not read. Raises ConfigurationError where one of them has the prompt."""
    unread = sorted(set(found) - set(COLUMNS))
    prompts = [name for name in unread if name.lower() in PROMPT_NAMES]
    if "prompt" not in found and prompts:
        raise ConfigurationError(
            f"{file} has no column 'prompt': rename {' or '.join(map(repr, prompts))} to 'prompt'"
        )
    if unread:
        log.warning("%s: columns that are not read: %s", file, ", ".join(unread))


def _unit_hash(prompt: Prompt) -> float:
    """A number in [0, 1) that depends only on the prompt."""
    return int.from_bytes(hashlib.sha256(repr(prompt).encode()).digest()[:8]) / 2**64
