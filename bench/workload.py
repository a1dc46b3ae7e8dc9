"""The loads and their requests: the same texts for every arm, other texts of the same lengths in every round.

Texts differ between rounds so that no cache of an arm helps it.
"""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from bench.models import Kind, causal_words, checkpoint
from metarm.model.encoder_files import load_encoder
from metarm.model.encoding import Encoder

SHORTEST, LONGEST = 20, 512  # tokens of a pair, special tokens included
LENGTH_MEDIAN, LENGTH_SIGMA = 116.0, 0.68  # of the log-normal; its mean, clipped, is about 143
GROUP_PROMPT_TOKENS, GROUP_RESPONSE_TOKENS = 512, 128  # the end-of-sequence token is part of the response


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: a prompt, its responses, and the number of tokens of each sequence."""

    prompt: str
    responses: tuple[str, ...]
    tokens: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(self.prompt, response) for response in self.responses]


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: `connections` clients, each of which sends its next request when its last is answered."""

    name: str
    model: Kind
    connections: int
    responses: int  # per request
    requests: int  # per measurement
    every: int = 1  # measured in every n-th round

    @property
    def texts(self) -> int:
        return self.responses * self.requests


FULL = (
    Load("1x1", "encoder", 1, 1, 96),
    Load("8x1", "encoder", 8, 1, 192),
    Load("32x1", "encoder", 32, 1, 256),
    Load("128x1", "encoder", 128, 1, 512),
    Load("8x64", "encoder", 8, 64, 8),
    Load("grpo", "causal", 2, 16, 8),
)
QUICK_REQUESTS = {"1x1": 24, "8x1": 48, "32x1": 96, "128x1": 160, "8x64": 8, "grpo": 2}
QUICK_EVERY = {"32x1": 2, "8x64": 2, "grpo": 2}  # the slow loads
QUICK = tuple(
    replace(load, requests=QUICK_REQUESTS[load.name], every=QUICK_EVERY.get(load.name, 1)) for load in FULL
)


class Source(Protocol):
    """Makes the requests of a load; `draw` names the round (or the warm-up, or the check)."""

    def requests(self, load: Load, draw: str) -> list[Request]: ...


class GeneratedPairs:
    """Pairs of log-normal length from random words of the packaged demo preferences."""

    def __init__(self, encoder: Encoder) -> None:
        self._words = _words_by_tokens(encoder)
        self._frame = len(encoder.encode([("", [""])])[0][0].ids)  # special tokens of a pair

    def requests(self, load: Load, draw: str) -> list[Request]:
        lengths = random.Random(f"lengths {load.name}")
        words = random.Random(f"words {load.name} {draw}")
        return [self._request(load.responses, lengths, words) for _ in range(load.requests)]

    def _request(self, responses: int, lengths: random.Random, words: random.Random) -> Request:
        totals = [_pair_length(lengths) for _ in range(responses)]
        room = min(totals) - self._frame
        prompt = max(4, min(room - 4, round(lengths.uniform(0.1, 0.5) * room)))
        texts = [self._text(total - self._frame - prompt, words) for total in totals]
        return Request(self._text(prompt, words), tuple(texts), tuple(totals))

    def _text(self, tokens: int, words: random.Random) -> str:
        """Words with `tokens` tokens in total."""
        chosen = []
        while tokens:
            size = min(tokens, words.choices((1, 2, 3), (80, 15, 5))[0])
            chosen.append(words.choice(self._words[size]))
            tokens -= size
        return " ".join(chosen)


def encoder_pairs() -> GeneratedPairs:
    """Pairs in the tokens of the benchmarks' encoder."""
    made = checkpoint("encoder")
    return GeneratedPairs(load_encoder(made.path, made.max_tokens))


class GeneratedGroups:
    """Groups of the causal model: a long prompt and random responses of equal length."""

    def __init__(self) -> None:
        self._words = causal_words()

    def requests(self, load: Load, draw: str) -> list[Request]:
        words = random.Random(f"words {load.name} {draw}")
        length = GROUP_PROMPT_TOKENS + GROUP_RESPONSE_TOKENS
        return [
            Request(
                self._text(GROUP_PROMPT_TOKENS, words),
                tuple(" " + self._text(GROUP_RESPONSE_TOKENS - 1, words) for _ in range(load.responses)),
                (length,) * load.responses,
            )
            for _ in range(load.requests)
        ]

    def _text(self, tokens: int, words: random.Random) -> str:
        return " ".join(words.choice(self._words) for _ in range(tokens))


class RealPairs:
    """Prompts and responses from a folder of preference or group files (JSON lines, gzipped or not).

    Pairs that the model would truncate are excluded: the arms truncate at different places.
    """

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self._encoder = encoder
        self._pairs = sorted(set(_real_pairs(folder)))
        if not self._pairs:
            raise ValueError(f"{folder}: no prompts with responses in its *.jsonl and *.jsonl.gz files")

    def requests(self, load: Load, draw: str) -> list[Request]:
        chosen = random.Random(f"pairs {load.name} {draw}")
        return [self._request(load.responses, chosen) for _ in range(load.requests)]

    def _request(self, responses: int, chosen: random.Random) -> Request:
        """A real prompt with its response; further responses are those of other prompts."""
        while True:
            prompt, response = chosen.choice(self._pairs)
            texts = list(
                dict.fromkeys([response, *(r for _, r in chosen.choices(self._pairs, k=8 * responses))])
            )
            encoded = self._encoder.encode([(prompt, texts)])[0]
            whole = [(t, len(e.ids)) for t, e in zip(texts, encoded, strict=True) if not e.truncated]
            if not encoded[0].truncated and len(whole) >= responses:
                kept = whole[:responses]
                return Request(prompt, tuple(text for text, _ in kept), tuple(size for _, size in kept))


def _pair_length(random_: random.Random) -> int:
    length = random_.lognormvariate(math.log(LENGTH_MEDIAN), LENGTH_SIGMA)
    return max(SHORTEST, min(LONGEST, round(length)))


def _words_by_tokens(encoder: Encoder) -> dict[int, list[str]]:
    """Words of the demo preferences by their number of tokens, 1 to 3."""
    resource = files("metarm") / "data" / "demo_preferences.jsonl.gz"
    texts = [row["chosen"] for row in _rows(gzip.decompress(resource.read_bytes()).decode())]
    words = sorted({word for text in texts for word in text.lower().split() if word.isalpha()})
    encoded = encoder.tokenizer.backend_tokenizer.encode_batch(words, add_special_tokens=False)
    sizes = [sum(encoding.attention_mask) for encoding in encoded]  # 0 for padding that the tokenizer adds
    return {size: [w for w, s in zip(words, sizes, strict=True) if s == size] for size in (1, 2, 3)}


def _real_pairs(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.jsonl.gz")]):
        content = file.read_bytes()
        text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode()
        for row in _rows(text):
            prompt = _plain_prompt(row["prompt"])
            for response in _responses(row):
                if prompt and response.strip():
                    yield prompt, response.strip()


def _rows(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in text.splitlines() if line.strip())


def _plain_prompt(prompt: str | Sequence[dict[str, str]]) -> str:
    return (prompt if isinstance(prompt, str) else "\n\n".join(turn["content"] for turn in prompt)).strip()


def _responses(row: dict[str, Any]) -> list[str]:
    if "responses" in row:
        return [r if isinstance(r, str) else r["text"] for r in row["responses"]]
    return [row["chosen"], row["rejected"]]
