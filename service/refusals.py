"""The versions this server would not load: which, why, since when. Lives on the event loop."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

log = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0  # that whoever follows something by itself waits before he tries a refused version again
MOST = 100  # versions that are remembered


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version that was refused, the last reason, how often, and when first and last (Unix seconds)."""

    name: str
    reason: str
    times: int
    first: float
    last: float


class Refusals:
    """Every refusal since the start, by name: the last `MOST` of them."""

    def __init__(self, counted: Callable[[], None]) -> None:
        """`counted` is called at each refusal."""
        self._counted = counted
        self._by_name: OrderedDict[str, Refusal] = OrderedDict()

    def __call__(self, name: str, reason: str) -> None:
        """Remember, count and, unless it is the same as last time, log."""
        now, before = time.time(), self._by_name.pop(name, None)
        if before is None or before.reason != reason:
            log.error("refused %s: %s", name, reason, extra={"version": name})
        known = before or Refusal(name, reason, 0, now, now)
        self._by_name[name] = replace(known, reason=reason, times=known.times + 1, last=now)
        if len(self._by_name) > MOST:
            self._by_name.popitem(last=False)
        self._counted()

    def all(self) -> list[Refusal]:
        """Latest last."""
        return list(self._by_name.values())
