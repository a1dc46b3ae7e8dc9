"""Scores by version and digest of the tokens, so that none is computed twice. Lives on the event loop."""

from __future__ import annotations

from cachetools import LRUCache


class ScoreCache:
    """Up to `entries` scores (0: none), the most recently used.

    A version's name is never reused for other weights.
    """

    def __init__(self, entries: int) -> None:
        self._scores: LRUCache[tuple[str, bytes], float] = LRUCache(entries)

    def get(self, version: str, key: bytes) -> float | None:
        return self._scores.get((version, key))

    def put(self, version: str, key: bytes, score: float) -> None:
        if self._scores.maxsize:  # a cache of no entries refuses every one
            self._scores[version, key] = score

    def __len__(self) -> int:
        return len(self._scores)
