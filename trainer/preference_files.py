"""Preference files → rows → Preference records: TRL's format, plain or conversational, through `datasets`."""

from __future__ import annotations

import contextlib
import glob
import gzip
import json
import logging
import math
import re
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from metarm.errors import ConfigurationError
from metarm.records import Message, Preference, Prompt

log = logging.getLogger(__name__)

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
COLUMNS = ("prompt", "chosen", "rejected", "margin")
# names that other formats give to the prompt
PROMPT_NAMES = frozenset(
    (
        *("context", "conversation", "conversations", "ctx", "dialog", "dialogue", "history", "human", "input"),
        *("input_text", "inputs", "instruction", "instructions", "message", "messages", "post", "problem"),
        *("prompt_text", "prompts", "query", "queries", "question", "questions", "text", "user", "user_input"),
        *("user_message", "user_prompt"),
    )
)
IMPLICIT = object()
UNREADABLE = (ValueError, OSError, EOFError, StopIteration, zlib.error)  # raised for broken files
LINE_END = b"\n"
ROW = re.compile(r" in row \d+")


def read_pairs(file: Path) -> list[Preference]:
    """The pairs of a preference file, in order, one at least. Raises ConfigurationError that names the file and
    the row."""
    if not file.is_file():
        raise ConfigurationError(f"there is no preference file {file}")
    pairs = []
    for number, row in enumerate(_rows_of(file), 1):
        try:
            pairs.append(preference_of(row))
        except KeyError as error:
            raise ConfigurationError(f"{file}, row {number}: a message lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{file}, row {number}: {error}") from error
    if not any(pair.prompt.strip() if isinstance(pair.prompt, str) else pair.prompt for pair in pairs):
        raise ConfigurationError(f"{file}: every prompt is empty")
    return pairs


def preference_of(row: Mapping[str, Any]) -> Preference:
    """One row of TRL's preference format. The prompt is explicit, or the common beginning of both sides.

    Raises ValueError for a row that has neither, and KeyError or TypeError."""
    chosen, rejected = row["chosen"], row["rejected"]
    prompt: Prompt
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = _split_text(row.get("prompt", IMPLICIT), chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        prompt, chosen, rejected = _split_messages(row.get("prompt", IMPLICIT), chosen, rejected)
    else:
        raise TypeError("'chosen' and 'rejected' must both be texts, or both lists of messages")
    margin = float(row.get("margin") or 0.0)
    if not math.isfinite(margin):
        raise ValueError(f"its margin is {margin}")
    return Preference(prompt, chosen, rejected, margin)


def _split_text(prompt: Any, chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """`prompt` is IMPLICIT where the file has no such column."""
    if prompt is not IMPLICIT:
        return _checked_prompt(prompt), chosen, rejected
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared > 0 and not chosen[shared - 1].isspace():  # never in the middle of a word
        shared -= 1
    if not chosen[:shared].strip():
        raise ValueError("it has no prompt: 'prompt' is missing, and both sides share no beginning")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _split_messages(
    prompt: Any, chosen: Sequence[Message], rejected: Sequence[Message]
) -> tuple[Prompt, str, str]:
    if prompt is IMPLICIT:
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
    if prompt is None:
        raise ValueError("its prompt is missing, which other rows have")
    if not isinstance(prompt, list):
        raise TypeError(f"'prompt' must be a text or a list of messages, not {prompt!r}")
    return [Message(role=_text(m["role"]), content=_text(m["content"])) for m in prompt]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a message's role and content must be texts, not {value!r}")
    return value


def _rows_of(file: Path) -> Sequence[Mapping[str, Any]]:
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
            found = ", ".join(map(repr, data.column_names))
            raise ConfigurationError(f"{file} has no column {' and '.join(sorted(missing))}; it has {found}")
        wanted = [name for name in COLUMNS if name in data.column_names]
        try:
            rows = cast("list[dict[str, Any]]", data.select_columns(wanted).to_list())
        except UnicodeDecodeError as error:
            raise _unreadable(file, str(error)) from error
        _check_columns(file, data.column_names, some_empty=any(not row.get("prompt") for row in rows))
        return rows


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


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def _check_columns(file: Path, found: Sequence[str], *, some_empty: bool) -> None:
    """Name the columns that are not read. Raises ConfigurationError where one of them has the prompts of rows
    that have none (`some_empty`)."""
    unread = sorted(set(found) - set(COLUMNS))
    misnamed = [name for name in unread if _plain(name) in COLUMNS]
    if misnamed:
        raise ConfigurationError(
            f"{file} has the column {misnamed[0]!r}: rename it to {_plain(misnamed[0])!r}, as it is read"
        )
    prompts = [name for name in unread if _plain(name) in PROMPT_NAMES]
    if some_empty and prompts:
        lacks = "has rows without a prompt" if "prompt" in found else "has no column 'prompt'"
        raise ConfigurationError(f"{file} {lacks}: rename {' or '.join(map(repr, prompts))} to 'prompt'")
    if unread:
        log.warning("%s: columns that are not read: %s", file, ", ".join(unread))
