"""The files of a shift: labelled pairs of weak models to learn from, pairs and groups of stronger models."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from metarm.errors import ConfigurationError
from metarm.records import Preference, Prompt

HELD_OUT = "valid"
TESTS = ("id", "mid", "strong", "vstrong")
SHIFTED = ("mid", "strong", "vstrong")
META_SETS = ("strong", "vstrong", "llama3_family", "weak", "mid")
TEST_GROUPS = ("strong", "vstrong")
GROUP_SIZE = 5  # k


@dataclass(frozen=True, slots=True)
class Responses:
    """A prompt and unlabelled responses to it."""

    prompt: Prompt
    responses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShiftData:
    """`labelled` is keyed by HELD_OUT and TESTS, `meta` by the chosen meta-sets, `groups` by TEST_GROUPS.

    No prompt is in two of: `train`, HELD_OUT, all of `meta`, all of the tests.
    """

    train: list[Preference]
    labelled: dict[str, list[Preference]]
    meta: dict[str, list[Responses]]
    groups: dict[str, list[Responses]]


def load(folder: Path, meta_sets: Sequence[str], *, train_pairs: int | None, groups_a_prompt: int) -> ShiftData:
    """Read `train_pairs` (None: all) training pairs, drawn with a fixed seed, and of each meta-set
    up to `groups_a_prompt` groups of GROUP_SIZE responses a prompt. Raises ConfigurationError."""
    train = _pairs(folder / "train_pairs.jsonl.gz")
    if train_pairs is not None and train_pairs < len(train):
        train = random.Random("training pairs").sample(train, train_pairs)
    tests = {name: _pairs(folder / f"test_{name}_pairs.jsonl.gz") for name in TESTS}
    return ShiftData(
        train=train,
        labelled={HELD_OUT: _pairs(folder / "valid_pairs.jsonl.gz")} | tests,
        meta={name: _groups(folder / f"meta_{name}_groups.jsonl.gz", groups_a_prompt) for name in meta_sets},
        groups={name: _groups(folder / f"test_{name}_groups.jsonl.gz", 1) for name in TEST_GROUPS},
    )


def _pairs(file: Path) -> list[Preference]:
    return [Preference(row["prompt"], row["chosen"], row["rejected"]) for row in _rows(file, "chosen")]


def _groups(file: Path, rounds: int) -> list[Responses]:
    """First one group of every prompt, then the second of each: neighbours answer different prompts."""
    drawn = []
    for row in _rows(file, "responses"):
        texts = [response["text"] for response in row["responses"]]
        # every file lists its models in one order: the first five would be the same five models throughout
        random.Random(orjson.dumps(row["prompt"])).shuffle(texts)
        drawn.append((row["prompt"], texts))
    starts = range(0, rounds * GROUP_SIZE, GROUP_SIZE)
    groups = [
        Responses(prompt, tuple(texts[start : start + GROUP_SIZE]))
        for start in starts
        for prompt, texts in drawn
    ]
    return [group for group in groups if len(group.responses) == GROUP_SIZE]


def _rows(file: Path, field: str) -> Iterator[dict[str, Any]]:
    """The lines of a file, each with a prompt and `field`."""
    try:
        with gzip.open(file) as lines:
            for number, line in enumerate(lines, 1):
                row = orjson.loads(line)
                if not {"prompt", field} <= row.keys():
                    raise ConfigurationError(f"{file}, line {number}: no prompt, or no {field}")
                yield row
    except (OSError, EOFError, orjson.JSONDecodeError) as error:
        raise ConfigurationError(f"{file}: {error}") from error
