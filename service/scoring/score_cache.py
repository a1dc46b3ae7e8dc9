"""A cache of scores by version and digest of the tokens. Lives on the event loop."""

from __future__ import annotations

from cachetools import LRUCache


class ScoreCache:
    """Keeps the `entries` most recently used scores (0: none). A version's name is never reused for other
    weights, so entries never become stale."""

    def __init__(self, entries: int) -> None:
        self._scores: LRUCache[tuple[str, bytes], float] = LRUCache(entries)

    def get(self, version: str, key: bytes) -> float | None:
        return self._scores.get((version, key))

    def put(self, version: str, key: bytes, score: float) -> None:
        if self._scores.maxsize:  # LRUCache raises for an entry larger than itself
            self._scores[version, key] = score

    def __len__(self) -> int:
        return len(self._scores)
