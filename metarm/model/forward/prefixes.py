"""Keys and values of prompts already computed, within a number of bytes. Thread-safe."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

# one (keys, values) pair a layer, each (key heads, P, head width)
KeyValues = list[tuple[Tensor, Tensor]]
Prefix = tuple[int, ...]


class PrefixCache:
    """Least recently used prefixes go first. Keyed by version as well: another version's keys and
    values are another model's."""

    def __init__(self, max_bytes: int, looked_up: Callable[[bool], None] = lambda _: None) -> None:
        """`looked_up` is told of every look-up whether it found the prefix."""
        self._max_bytes = max_bytes
        self._looked_up = looked_up
        self._held: OrderedDict[tuple[str, Prefix], KeyValues] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def of(self, version: str) -> PrefixStore:
        return PrefixStore(self, version)

    def get(self, version: str, prefix: Prefix) -> KeyValues | None:
        with self._lock:
            found = self._held.get((version, prefix))
            if found is not None:
                self._held.move_to_end((version, prefix))
        self._looked_up(found is not None)
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
