"""Three disjoint splits of the prompts: preferences, training, evaluation.

The text of a prompt determines its split, whatever the seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from enum import Enum

import numpy as np

from simulation.families import IN_DISTRIBUTION, Family
from simulation.world import Task


class Split(Enum):
    """Tenths of all prompts, by checksum."""

    PREFERENCES = range(5)
    TRAINING = range(5, 8)
    EVALUATION = range(8, 10)


def split_of(prompt: str) -> Split:
    """The one split that `prompt` belongs to."""
    tenth = zlib.crc32(prompt.encode()) % 10
    return next(split for split in Split if tenth in split.value)


def stream_tasks(
    split: Split, rng: np.random.Generator, families: Mapping[str, Family] = IN_DISTRIBUTION
) -> Iterator[Task]:
    """Endless tasks of one split; the families take turns, so that all have the same share."""
    while True:
        for family in families.values():
            task = family(rng)
            while split_of(task.prompt) is not split:
                task = family(rng)
            yield task


def draw_tasks(
    split: Split,
    count: int,
    rng: np.random.Generator,
    families: Mapping[str, Family] = IN_DISTRIBUTION,
) -> list[Task]:
    """`count` tasks of one split with distinct prompts."""
    tasks: dict[str, Task] = {}
    for task in stream_tasks(split, rng, families):
        if len(tasks) == count:
            break
        tasks.setdefault(task.prompt, task)
    return list(tasks.values())
