"""Scores already computed, so that no version computes the same tokens twice. Lives on the event loop."""

from __future__ import annotations

from collections import OrderedDict


class ScoreCache:
    """The scores used last, up to `entries` of them (0: none are kept). Keyed by version and digest of
    the tokens: a version name is never used again for other weights."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._scores: OrderedDict[tuple[str, bytes], float] = OrderedDict()

    def get(self, version: str, key: bytes) -> float | None:
        score = self._scores.get((version, key))
        if score is not None:
            self._scores.move_to_end((version, key))
        return score

    def put(self, version: str, key: bytes, score: float) -> None:
        if self._entries:
            self._scores[version, key] = score
            if len(self._scores) > self._entries:
                self._scores.popitem(last=False)

    def __len__(self) -> int:
        return len(self._scores)
