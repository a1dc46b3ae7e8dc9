"""A cache of prompts' attention keys and values, bounded in bytes. Thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import LRUCache
from torch import Tensor

# one (keys, values) pair a layer, each (key heads, P, head width)
KeyValues = list[tuple[Tensor, Tensor]]
Prefix = tuple[int, ...]


class PrefixCache:
    """Evicts the least recently used prefixes. Keyed by version and prefix: each version is a model."""

    def __init__(self, max_bytes: int, on_lookup: Callable[[bool], None] = lambda _: None) -> None:
        """`on_lookup` is called after every look-up with whether it found the prefix."""
        self._on_lookup = on_lookup
        self._held: LRUCache[tuple[str, Prefix], KeyValues] = LRUCache(max_bytes, getsizeof=_bytes)
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        return int(self._held.currsize)

    def of(self, version: str) -> PrefixStore:
        return PrefixStore(self, version)

    def get(self, version: str, prefix: Prefix) -> KeyValues | None:
        with self._lock:
            found = self._held.get((version, prefix))
        self._on_lookup(found is not None)
        return found

    def put(self, version: str, prefix: Prefix, values: KeyValues) -> None:
        """Keep the first values of a prefix; values larger than the whole cache are not kept."""
        with self._lock:
            if _bytes(values) <= self._held.maxsize and (version, prefix) not in self._held:
                self._held[version, prefix] = values


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
