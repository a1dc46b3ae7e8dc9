"""Random nouns and numbers, and the wording of claims, for all families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from simulation.world import Claims, Verdict

T = TypeVar("T")

NAMES = (
    "Nora",
    "Tam",
    "Ines",
    "Odd",
    "Priya",
    "Jonas",
    "Lucia",
    "Wim",
    "Aiko",
    "Bela",
    "Carys",
    "Dario",
    "Elif",
    "Femi",
    "Greta",
    "Hugo",
    "Imre",
    "Jana",
    "Kofi",
    "Lena",
    "Mira",
    "Nils",
    "Olga",
    "Pavel",
    "Rosa",
    "Sven",
    "Tessa",
    "Umar",
    "Vera",
    "Yusuf",
)
TOWNS = (
    "Alder Bridge",
    "Brackwell",
    "Corran",
    "Dunmere",
    "Eastley",
    "Fennick",
    "Garrow",
    "Holmsby",
    "Ivelton",
    "Kestrel Bay",
    "Larch Hill",
    "Marrow",
    "Netherby",
    "Oxcombe",
    "Pellam",
    "Quarry End",
)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, each as likely as the other."""
    return options[int(rng.integers(len(options)))]


def pick_some(rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    """`count` different ones of `options`, in random order."""
    return [options[int(i)] for i in rng.permutation(len(options))[:count]]


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(rng.integers(low, high + 1))


def off_by(rng: np.random.Generator, value: int, *slips: int) -> int:
    """`value` missed by one of `slips`, upwards or downwards; always positive and never `value`."""
    slip = pick(rng, slips)
    down = value - slip
    return down if down > 0 and rng.random() < 0.5 else value + slip


def claims(
    templates: Sequence[Sequence[str]],
    right: Sequence[object],
    near: Sequence[object],
    wrong: Sequence[object],
) -> Claims:
    """Wordings of every verdict: `templates[part]` each take that part's value as `{}`.

    Raises ValueError where a verdict does not answer every part.
    """
    verdicts: dict[Verdict, Sequence[object]] = {"right": right, "near": near, "wrong": wrong}
    return {
        verdict: tuple(
            tuple(template.format(value) for template in wordings)
            for wordings, value in zip(templates, values, strict=True)
        )
        for verdict, values in verdicts.items()
    }


def clock(minutes: int) -> str:
    """Minutes after midnight as a time of day: 545 is 9:05."""
    return f"{minutes // 60 % 24}:{minutes % 60:02d}"


def counted(count: int, singular: str) -> str:
    """`1 crate`, `2 crates`."""
    return f"{count} {singular}" if count == 1 else f"{count} {singular}s"
