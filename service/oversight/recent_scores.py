"""The newest scores of a version, for charts: |Δr| of pairs, and score by length. Pure.

Memory is bounded: each group adds a few pairs and points, and only the newest are kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEEP_DIFFERENCES, PAIRS_OF_GROUP = 2048, 8
KEEP_POINTS, POINTS_OF_GROUP = 512, 4
BINS = 32
SHOWN_SHARE = 0.99  # of the differences; the rest is counted in `beyond`


class RecentScores:
    """The newest scores of one version."""

    def __init__(self) -> None:
        self.differences: deque[float] = deque(maxlen=KEEP_DIFFERENCES)  # |Δr|
        self.points: deque[tuple[int, float]] = deque(maxlen=KEEP_POINTS)  # tokens, score

    def add(self, scores: Sequence[float], lengths: Sequence[int]) -> None:
        """Add a group's first distinct responses. Each is in at most one pair: pairs are independent."""
        pairs = islice(zip(scores[::2], scores[1::2], strict=False), PAIRS_OF_GROUP)
        self.differences.extend(abs(one - other) for one, other in pairs)
        self.points.extend(islice(zip(lengths, scores, strict=True), POINTS_OF_GROUP))

    def lengths(self) -> dict[str, list[Any]]:
        """The tokens and the score of each point, oldest first."""
        return {
            "tokens": [tokens for tokens, _ in self.points],
            "scores": [round(score, 4) for _, score in self.points],
        }


def histograms(of_each: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Histograms of several sets of differences, in the same bins from 0 on. `counts[i]` is of the differences
    from i · width on; `beyond` of those past the last bin."""
    sets = [np.array(differences, dtype=float) for differences in of_each]
    together = np.concatenate(sets)
    last = float(np.quantile(together, SHOWN_SHARE, method="inverted_cdf")) if together.size else 0.0
    width = _round_up(last / BINS) if last > 0 else 1.0
    return [_histogram(differences, width) for differences in sets]


def _histogram(differences: NDArray[np.float64], width: float) -> dict[str, Any]:
    bins = np.minimum(differences / width, BINS).astype(int)
    *counts, beyond = np.bincount(bins, minlength=BINS + 1).tolist()
    return {"pairs": len(differences), "width": width, "counts": counts, "beyond": beyond}


def _round_up(width: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten: readable bins that small changes of the values leave
    alone."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= width)
