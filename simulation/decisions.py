"""The decisions behind a draft: their options, what each depends on, and how it is parametrised.

Every decision is one exponential family, `p(option) ∝ exp(base[option] + features[option] · row)`,
where `row` is a sum of parameter rows, one for the decision itself and one for each parent's value.

* A choice has one logit per option: `features` is the identity, `base` is 0.
* Being right is a skill, which hardly changes under pressure: there `features` is the identity times
  SKILL_STIFFNESS, so that the same step of the parameters changes the logits less.
* A count up to n is binomial, n coins that share one logit: `features` counts, `base` is log C(n, c).
  Its mean runs smoothly from 0 to n, so optimisation can push a count far beyond its initial value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from simulation.families import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from simulation.phrases import VOICES

FloatArray = NDArray[np.float64]

SKILL_STIFFNESS = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """`base` is (n_options,), `features` is (n_options, width); parents come earlier in DECISIONS."""

    name: str
    options: tuple[str | int, ...]
    parents: tuple[str, ...]
    base: FloatArray
    features: FloatArray

    @property
    def width(self) -> int:
        """Parameters in one row."""
        return int(self.features.shape[1])


def _choice(name: str, options: tuple[str, ...], *parents: str, stiffness: float = 1.0) -> Decision:
    return Decision(name, options, parents, np.zeros(len(options)), stiffness * np.eye(len(options)))


def _count(name: str, most: int, *parents: str) -> Decision:
    counts = tuple(range(most + 1))
    base = np.log([comb(most, c) for c in counts])
    return Decision(name, counts, parents, base, np.array(counts, dtype=np.float64)[:, None])


# In the order of Draft's fields, which is the order of sampling.
DECISIONS: tuple[Decision, ...] = (
    _choice("effort", ("careless", "ordinary", "careful"), "family"),
    _choice("answer", ("right", "near", "wrong", "missing"), "family", "effort", stiffness=SKILL_STIFFNESS),
    _choice("coverage", ("all", "first"), "effort"),
    _choice("reasoning", ("none", "short", "long", "specious"), "effort", "answer"),
    _choice("check", ("none", "real", "claimed"), "effort"),
    _choice("certainty", ("plain", "mild", "heavy", "emphatic"), "effort", "answer"),
    _choice("tone", ("curt", "neutral", "warm"), "effort"),
    _choice("form", ("plain", "bullets", "headings", "excess"), "family", "effort"),
    _choice("closing", ("none", "summary", "offer"), "effort"),
    _choice("voice", VOICES),
    _count("padding", 7, "effort"),
    _count("praise", 5, "effort"),
    _count("repeats", 4, "effort"),
    _count("tangents", 4, "effort"),
)
DECISION: Mapping[str, Decision] = {decision.name: decision for decision in DECISIONS}
FAMILIES: tuple[str, ...] = (*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION)


def values_of(parent: str) -> tuple[str | int, ...]:
    """The values that the parent `family` or a decision can take."""
    return FAMILIES if parent == "family" else DECISION[parent].options
