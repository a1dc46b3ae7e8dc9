"""Labelled pairs from the initial policy: the first training data of a reward model.

Labels follow the gold reward with Bradley-Terry noise, P(first is chosen) = σ((g₁ - g₂) / noise).
`python -m simulation.preferences FILE` writes the packaged demo preferences.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson

from simulation.gold import gold
from simulation.policy import Policy
from simulation.prompts import Split, draw_tasks
from simulation.world import Response

Pair = tuple[Response, Response]  # chosen, rejected
PACKAGED_PAIRS = 2400
POLICIES = 4  # slightly different writers of the pairs


def label(first: Response, second: Response, noise: float, rng: np.random.Generator) -> Pair:
    """(chosen, rejected). `noise` is in gold points; at 0 the better one wins, a coin settles ties."""
    gap = gold(first) - gold(second)
    if noise > 0:
        first_wins = rng.random() < 0.5 * (1.0 + np.tanh(gap / noise / 2))
    else:
        first_wins = gap > 0 or (gap == 0 and rng.random() < 0.5)
    return (first, second) if first_wins else (second, first)


def preference_pairs(
    policies: Sequence[Policy], count: int, rng: np.random.Generator, noise: float = 0.6
) -> Iterator[Pair]:
    """`count` labelled pairs on distinct prompts of the preference split.

    The two responses of a pair come from one of `policies`, drawn uniformly.
    """
    for task in draw_tasks(Split.PREFERENCES, count, rng):
        policy = policies[int(rng.integers(len(policies)))]
        first, second = policy.sample(task, 2, rng)
        while first.text == second.text:
            (second,) = policy.sample(task, 1, rng)
        yield label(first, second, noise, rng)


def encode_preferences(pairs: Iterator[Pair]) -> bytes:
    """Gzipped JSON lines `{"prompt", "chosen", "rejected"}` (TRL's columns); same pairs, same bytes."""
    lines = [
        orjson.dumps(
            {"prompt": chosen.task.prompt, "chosen": chosen.text, "rejected": rejected.text},
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for chosen, rejected in pairs
    ]
    return gzip.compress(b"".join(lines), compresslevel=9, mtime=0)


def write_preferences(path: Path, count: int, seed: int) -> None:
    """Write `count` pairs from POLICIES initial policies to `path`."""
    rng = np.random.default_rng(seed)
    writers = [Policy.initial(number) for number in range(POLICIES)]
    path.write_bytes(encode_preferences(preference_pairs(writers, count, rng)))


if __name__ == "__main__":
    write_preferences(Path(sys.argv[1]), PACKAGED_PAIRS, seed=0)
