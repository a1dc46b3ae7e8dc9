"""A folder of tiny preference files, in the form `experiments/shift` reads."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import orjson

from experiments.shifted.data import META_SETS, TEST_GROUPS, TESTS

WORDS = ["forty", "two", "is", "the", "answer", "longer", "words", "reasoning", "trains", "pencils", "coins"]
PROMPTS = 6


def make_files(folder: Path) -> Path:
    """Write six prompts per split, twelve pairs per file and eleven responses per group."""
    folder.mkdir()
    rng = random.Random(0)
    for name in ("train_pairs", "valid_pairs", *(f"test_{test}_pairs" for test in TESTS)):
        write(folder, name, [_pair(name.split("_")[0], number, rng) for number in range(2 * PROMPTS)])
    for name in (*(f"meta_{meta}_groups" for meta in META_SETS), *(f"test_{t}_groups" for t in TEST_GROUPS)):
        write(folder, name, [_group(name.split("_")[0], number, rng) for number in range(PROMPTS)])
    return folder


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(b"\n".join(orjson.dumps(row) for row in rows)))


def _pair(split: str, number: int, rng: random.Random) -> dict[str, Any]:
    prompt = f"{split} question {number % PROMPTS}?"
    return {"prompt": prompt, "chosen": _text(rng), "rejected": _text(rng), "source": "made up"}


def _group(split: str, number: int, rng: random.Random) -> dict[str, Any]:
    responses = [{"model": str(model), "text": _text(rng)} for model in range(11)]
    return {"prompt": f"{split} question {number}?", "responses": responses, "source": "made up"}


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(2, 20)))
