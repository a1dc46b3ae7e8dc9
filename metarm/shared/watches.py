"""The watches over promoted versions in Redis: shared by all servers, kept over restarts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import orjson
import redis

from metarm.shared.keys import WATCHES
from metarm.shared.scripts import load_script

KEEP = 200
Outcome = Literal["watching", "left", "passed", "unjudged", "rolled_back"]
# an outcome never replaces one of a higher rank, because servers end their watches in any order
RANK: Mapping[Outcome, int] = {"watching": 0, "left": 1, "passed": 2, "unjudged": 2, "rolled_back": 3}


@dataclass(frozen=True, slots=True)
class WatchRecord:
    """The watch over one version: the parent it is compared with, the outcome, its time (Unix, in seconds) and
    reason, and the figures that decided it."""

    version: str
    parent: str
    outcome: Outcome
    at: float
    reason: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decided(self) -> bool:
        return RANK[self.outcome] >= RANK["passed"]


class WatchBoard:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._script = load_script(client, "watches")

    def read(self) -> dict[str, WatchRecord]:
        """The newest KEEP watches, by version."""
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(WATCHES))
        return {version.decode(): _load(record) for version, record in raw.items()}

    def save(self, record: WatchRecord) -> None:
        """Write a record, unless one of a higher rank is there. A watch that was left may start again."""
        self._script([WATCHES], [record.version, _dump(record), RANK[record.outcome], KEEP])


def _dump(record: WatchRecord) -> bytes:
    return orjson.dumps({**asdict(record), "rank": RANK[record.outcome]})


def _load(data: bytes) -> WatchRecord:
    fields = orjson.loads(data)
    del fields["rank"]
    return WatchRecord(**fields)
