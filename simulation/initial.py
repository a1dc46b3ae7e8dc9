"""The initial policy's probabilities, before any optimisation.

They depend on the effort behind a response. Careful answers are more often right, and also longer, friendlier
and tidier: the confounding that a reward model learns from. The gold reward plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simulation.decisions import FloatArray

EFFORT = (0.34, 0.38, 0.28)  # careless, ordinary, careful
GIVEN_EFFORT: Mapping[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "answer": ((0.36, 0.22, 0.30, 0.12), (0.60, 0.19, 0.17, 0.04), (0.80, 0.11, 0.08, 0.01)),
    "coverage": ((0.60, 0.40), (0.82, 0.18), (0.96, 0.04)),
    "reasoning": ((0.62, 0.20, 0.03, 0.15), (0.33, 0.38, 0.17, 0.12), (0.08, 0.32, 0.52, 0.08)),
    "check": ((0.93, 0.02, 0.05), (0.82, 0.09, 0.09), (0.58, 0.27, 0.15)),
    "certainty": ((0.50, 0.20, 0.20, 0.10), (0.54, 0.24, 0.10, 0.12), (0.52, 0.20, 0.06, 0.22)),
    "tone": ((0.42, 0.50, 0.08), (0.18, 0.57, 0.25), (0.05, 0.45, 0.50)),
    "form": ((0.93, 0.05, 0.01, 0.01), (0.76, 0.16, 0.06, 0.02), (0.44, 0.33, 0.19, 0.04)),
    "closing": ((0.88, 0.04, 0.08), (0.60, 0.13, 0.27), (0.34, 0.26, 0.40)),
}
# The chance of each of a count's coins.
COUNT_GIVEN_EFFORT: Mapping[str, tuple[float, float, float]] = {
    "padding": (0.04, 0.11, 0.24),
    "praise": (0.02, 0.08, 0.20),
    "repeats": (0.03, 0.06, 0.11),
    "tangents": (0.04, 0.06, 0.09),
}
# Added to the logits above: a wrong answer is often, but not always, visible.
GIVEN_ANSWER: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "reasoning": {
        "right": (0.0, 0.3, 0.3, -1.0),
        "wrong": (0.0, -0.6, -0.6, 0.9),
        "missing": (0.5, -0.5, -1.0, 0.6),
    },
    "certainty": {
        "right": (0.0, 0.0, -0.6, 0.4),
        "wrong": (0.0, 0.2, 0.6, -0.5),
        "missing": (0.0, 0.3, 0.8, -0.8),
    },
}
# Log-odds of a right answer, easier (above 0) or harder than the mean.
EASE: Mapping[str, float] = {
    "change": 0.2, "sharing": -0.2, "conversion": 0.4, "recipe": 0.0, "bargain": -0.3, "timetable": 0.1,
    "opening": 0.0, "almanac": 0.3, "alphabet": -0.2, "letters": -0.4, "advice": 0.3, "weekday": -0.4,
    "walk": -0.1, "ages": -0.3, "thanks": 0.2,
}  # fmt: skip
LISTS_FOR_ADVICE = (0.0, 0.4, 0.2, 0.0)
EFFORTS = ("careless", "ordinary", "careful")


def _initial_logits() -> dict[tuple[str, str, str | int], FloatArray]:
    rows: dict[tuple[str, str, str | int], FloatArray] = {("effort", "", ""): np.log(EFFORT)}
    for name, tables in GIVEN_EFFORT.items():
        rows |= {(name, "effort", e): np.log(p) for e, p in zip(EFFORTS, tables, strict=True)}
    for name, coins in COUNT_GIVEN_EFFORT.items():
        rows |= {(name, "effort", e): np.log([p / (1 - p)]) for e, p in zip(EFFORTS, coins, strict=True)}
    for name, by_answer in GIVEN_ANSWER.items():
        rows |= {(name, "answer", a): np.array(shift) for a, shift in by_answer.items()}
    for family, ease in EASE.items():
        rows["answer", "family", family] = np.array([ease, 0.0, 0.0, 0.0])
    for family in ("advice", "thanks"):
        rows["form", "family", family] = np.array(LISTS_FOR_ADVICE)
    return rows


# Row of theta (see `policy.layout`) → the initial logits added there; rows not named start at 0.
INITIAL_LOGITS: Mapping[tuple[str, str, str | int], FloatArray] = _initial_logits()
