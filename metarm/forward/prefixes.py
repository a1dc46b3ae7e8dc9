"""Keys and values of prompts already computed, within a number of bytes. Thread-safe."""

from __future__ import annotations

import threading
from collections import OrderedDict

from torch import Tensor

# one (keys, values) pair a layer, each (key heads, P, head width)
KeyValues = list[tuple[Tensor, Tensor]]
Prefix = tuple[int, ...]


class PrefixCache:
    """Least recently used prefixes go first. Keyed by version as well: another version's keys and
    values are another model's."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[tuple[str, Prefix], KeyValues] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def of(self, version: str) -> PrefixStore:
        return PrefixStore(self, version)

    def get(self, version: str, prefix: Prefix) -> KeyValues | None:
        with self._lock:
            found = self._held.get((version, prefix))
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._held.move_to_end((version, prefix))
            return found

    def put(self, version: str, prefix: Prefix, values: KeyValues) -> None:
        size = _bytes(values)
        if size > self._max_bytes:
            return
        with self._lock:
            if (version, prefix) in self._held:
                return
            self._held[version, prefix] = values
            self.bytes += size
            while self.bytes > self._max_bytes:
                _, dropped = self._held.popitem(last=False)
                self.bytes -= _bytes(dropped)

    def drop(self, version: str) -> None:
        """Forget a version that left memory."""
        with self._lock:
            for key in [key for key in self._held if key[0] == version]:
                self.bytes -= _bytes(self._held.pop(key))


class PrefixStore:
    """One version's part of the cache."""

    def __init__(self, cache: PrefixCache, version: str) -> None:
        self._cache = cache
        self._version = version

    def get(self, prefix: Prefix) -> KeyValues | None:
        return self._cache.get(self._version, prefix)

    def put(self, prefix: Prefix, values: KeyValues) -> None:
        self._cache.put(self._version, prefix, values)


def _bytes(values: KeyValues) -> int:
    return sum(keys.nbytes + values_.nbytes for keys, values_ in values)
