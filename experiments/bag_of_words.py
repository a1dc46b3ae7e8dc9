"""A small linear reward model on word counts, for closed loops that need no server.

It has the failings of larger models: it sees style and hardly any correctness, and it does not extrapolate
to texts far from its training data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simulation.preferences import Pair
from simulation.world import Response

TOKEN = re.compile(r"\w+|[^\w\s]+")


class BagOfWords:
    """Bradley-Terry regression on log(1 + count) of words and word pairs, with an L2 penalty."""

    def __init__(self, vocabulary: Sequence[str], weights: NDArray[np.float64]) -> None:
        self._index = {term: i for i, term in enumerate(vocabulary)}
        self._weights = weights

    @classmethod
    def fit(
        cls, pairs: Sequence[Pair], *, penalty: float = 0.003, steps: int = 150, min_count: int = 8
    ) -> BagOfWords:
        """Trained by full-batch gradient descent with momentum; deterministic."""
        seen = Counter(term for pair in pairs for response in pair for term in set(_terms(response.text)))
        vocabulary = sorted(term for term, count in seen.items() if count >= min_count)
        model = cls(vocabulary, np.zeros(len(vocabulary)))
        gaps = np.stack([model._features(chosen.text) - model._features(other.text) for chosen, other in pairs])
        velocity = np.zeros_like(model._weights)
        for _ in range(steps):
            doubt = 1.0 / (1.0 + np.exp(gaps @ model._weights))
            gradient = gaps.T @ doubt / len(pairs) - penalty * model._weights
            velocity = 0.9 * velocity + gradient
            model._weights = model._weights + 0.2 * velocity
        return model

    def score(self, groups: Sequence[Sequence[Response]]) -> list[list[float]]:
        """The score of every response, in the shape of `groups`."""
        return [[float(self._features(r.text) @ self._weights) for r in group] for group in groups]

    def _features(self, text: str) -> NDArray[np.float64]:
        features = np.zeros(len(self._index))
        for term, count in Counter(_terms(text)).items():
            at = self._index.get(term)
            if at is not None:
                features[at] = np.log1p(count)
        return features


def _terms(text: str) -> list[str]:
    words = TOKEN.findall(text.lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]
