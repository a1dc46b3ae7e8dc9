"""What became of each watched version, in Redis: all servers know it, and so does one that starts again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import orjson
import redis

from metarm.shared.keys import WATCHES

Outcome = Literal["watching", "left", "passed", "unjudged", "rolled_back"]
# an outcome is never replaced by a lesser one: servers end their watches in any order
RANK: Mapping[Outcome, int] = {"watching": 0, "left": 1, "passed": 2, "unjudged": 2, "rolled_back": 3}

# KEYS: hash. ARGV: version, record, its rank. A watch that was left may begin again.
SAVE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local rank = tonumber(ARGV[3])
if held then
    local before = cjson.decode(held)['rank']
    if before > rank and not (before == 1 and rank == 0) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class WatchRecord:
    """One version's watch: against which parent, how it stands or ended, when (Unix time in seconds),
    why, and the figures it was judged by."""

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

    def read(self) -> dict[str, WatchRecord]:
        """Every version that was ever watched."""
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(WATCHES))
        return {version.decode(): _decode(record) for version, record in raw.items()}

    def save(self, record: WatchRecord) -> None:
        """Keep a record, unless a greater outcome of the same version is known."""
        rank = RANK[record.outcome]
        data = orjson.dumps({**asdict(record), "rank": rank})
        self._redis.eval(SAVE, 1, WATCHES, record.version, data, rank)


def _decode(data: bytes) -> WatchRecord:
    fields = orjson.loads(data)
    del fields["rank"]
    return WatchRecord(**fields)
