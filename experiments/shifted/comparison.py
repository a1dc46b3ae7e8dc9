"""Rows of figures, and how far each lies from vanilla's: bootstrap over prompts and seeds together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.shifted.measures import Bools, Floats, Measure, labelled, spread, unlabelled

IN_DISTRIBUTION = "id"
RESAMPLES = 1000
INTERVAL = (0.025, 0.975)

Ints = NDArray[np.integer[Any]]
Gaps = Mapping[str, Floats]  # score differences (n,) of each set's pairs
Cell = tuple[str, Measure]


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs (n,) of one set: the prompt each belongs to, and whether the chosen response has fewer words
    (None in unlabelled pairs)."""

    prompts: Ints
    shorter: Bools | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, the mean over seeds; its change against vanilla, seed by seed, with a 95% interval."""

    value: float
    change: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one row: for each cell by seed (S,), and by resample and seed (B, S)."""

    sample: dict[Cell, Floats]
    resampled: dict[Cell, Floats]


class Bootstrap:
    """The same resamples for every row, so that rows are compared on the same draws."""

    def __init__(self, sets: Mapping[str, PairSet], strata: Ints, seeds: int, count: int = RESAMPLES) -> None:
        """`strata` (P,) is the split of each prompt. A resample draws as many prompts from each split as it
        has; the pairs of a prompt are drawn together, in all sets of the split."""
        rng = np.random.default_rng(0)
        by_prompt = np.zeros((count, len(strata)))
        for stratum in np.unique(strata):
            inside = np.flatnonzero(strata == stratum)
            by_prompt[:, inside] = _draws(rng, count, len(inside))
        self._sets = dict(sets)
        self._weights = {name: by_prompt[:, pairs.prompts].astype(np.float32) for name, pairs in sets.items()}
        self._ones = {name: np.ones((1, len(pairs.prompts))) for name, pairs in sets.items()}
        self._seed_shares = _draws(rng, count, seeds) / seeds  # (B, S)

    def figures(self, by_seed: Sequence[Gaps]) -> Figures:
        sample = [self._of(gaps, self._ones) for gaps in by_seed]
        resampled = [self._of(gaps, self._weights) for gaps in by_seed]
        return Figures(
            {cell: np.concatenate([one[cell] for one in sample]) for cell in sample[0]},
            {cell: np.stack([one[cell] for one in resampled], axis=1) for cell in sample[0]},
        )

    def estimates(self, row: Figures, vanilla: Figures) -> dict[Cell, Estimate]:
        return {cell: self._estimate(cell, row, vanilla) for cell in row.sample}

    def _estimate(self, cell: Cell, row: Figures, vanilla: Figures) -> Estimate:
        """Ignore resamples without a pair of a kind: they have no figure of it."""
        changes = ((row.resampled[cell] - vanilla.resampled[cell]) * self._seed_shares).sum(axis=1)
        changes = changes[np.isfinite(changes)]
        low, high = np.quantile(changes, INTERVAL) if len(changes) else (np.nan, np.nan)
        change = (row.sample[cell] - vanilla.sample[cell]).mean()
        return Estimate(float(row.sample[cell].mean()), float(change), float(low), float(high))

    def _of(self, gaps: Gaps, weights: Mapping[str, Floats]) -> dict[Cell, Floats]:
        id_spread = spread(gaps[IN_DISTRIBUTION], weights[IN_DISTRIBUTION])
        found: dict[Cell, Floats] = {}
        for name, pairs in self._sets.items():
            if pairs.shorter is None:
                measured = unlabelled(gaps[name], weights[name], id_spread)
            else:
                measured = labelled(gaps[name], pairs.shorter, weights[name], id_spread)
            found |= {(name, measure): figure for measure, figure in measured.items()}
        return found


def _draws(rng: np.random.Generator, count: int, size: int) -> Floats:
    """(count, size): how often each of `size` items is drawn in `size` draws with replacement."""
    return rng.multinomial(size, np.full(size, 1 / size), size=count).astype(float)
