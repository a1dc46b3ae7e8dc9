"""The cut-over's state in Redis: which version, how far, and what each server says of it. No torch.

    prepare ──▶ hold ──▶ go           one server alone: prepare ──▶ go
       └─────────┴─────▶ abort

One record, changed by scripts that compare before they set, so that every server and the coordinator see
one order of events. `docs/architecture.md` has the protocol; the coordinator is metarm/shared/coordinator.py, a
server's part service/versions/membership.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import redis

from metarm.shared.keys import CUT_OVER, CUT_OVER_NOTICES, SERVICE_PREFIX, SERVICES

Phase = Literal["prepare", "hold", "go", "abort"]
FIELD = "server:"  # before a server's id in the record
REFUSED = "refused: "  # before its reason
KEEP_S = 86400

# A record counts as under way until the time its coordinator last gave it: a dead one blocks nobody.
RUNNING = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function running(key)
  local phase = redis.call('HGET', key, 'phase')
  return (phase == 'prepare' or phase == 'hold') and now() <= tonumber(redis.call('HGET', key, 'until'))
end
"""

# The record, with those servers said to be lost whose registration has expired.
READ = f"""{RUNNING}
local function read(key)
  local record = redis.call('HGETALL', key)
  if #record == 0 then return false end
  for i = 1, #record, 2 do
    local id = string.match(record[i], '^{FIELD}(.*)$')
    if id and redis.call('EXISTS', '{SERVICE_PREFIX}' .. id) == 0 then record[i + 1] = 'lost' end
  end
  record[#record + 1] = 'running'
  record[#record + 1] = running(key) and '1' or '0'
  return record
end
local function until_in(ms) return string.format('%.0f', now() + tonumber(ms)) end
"""

# KEYS: record. In all that follow ARGV[1] is the cut-over's id.
STATE = READ + "return read(KEYS[1])"

# All servers that live take part. KEYS: record, ids. ARGV: id, version, coordinator, lease in ms, keep in s.
BEGIN = (
    READ
    + f"""
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  if running(KEYS[1]) then return read(KEYS[1]) end
  local live = {{}}
  for _, id in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if redis.call('EXISTS', '{SERVICE_PREFIX}' .. id) == 1 then
      live[#live + 1] = id
    else
      redis.call('SREM', KEYS[2], id)
    end
  end
  if #live == 0 then return false end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'id', ARGV[1], 'version', ARGV[2], 'coordinator', ARGV[3],
    'phase', 'prepare', 'reason', '', 'until', until_in(ARGV[4]))
  for _, id in ipairs(live) do redis.call('HSET', KEYS[1], '{FIELD}' .. id, '') end
  redis.call('EXPIRE', KEYS[1], ARGV[5])
  redis.call('PUBLISH', '{CUT_OVER_NOTICES}', 'prepare')
end
return read(KEYS[1])
"""
)

# The coordinator lives. ARGV: id, lease in ms.
KEEP = (
    READ
    + """
if redis.call('HGET', KEYS[1], 'id') == ARGV[1] and redis.call('HGET', KEYS[1], 'phase') == 'prepare'
  and running(KEYS[1]) then
  redis.call('HSET', KEYS[1], 'until', until_in(ARGV[2]))
end
return read(KEYS[1])
"""
)

# One phase to the next, unless somebody was faster. Lost servers are left out of a hold, and all others
# must be ready for it. ARGV: id, from, to, reason, lease in ms.
MOVE = (
    READ
    + f"""
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'phase') ~= ARGV[2] then
  return read(KEYS[1])
end
if ARGV[3] == 'hold' then
  if not running(KEYS[1]) then return read(KEYS[1]) end
  local record = read(KEYS[1])
  for i = 1, #record, 2 do
    if string.find(record[i], '^{FIELD}') then
      if record[i + 1] == 'lost' then
        redis.call('HDEL', KEYS[1], record[i])
      elseif record[i + 1] ~= 'ready' then
        return record
      end
    end
  end
end
redis.call('HSET', KEYS[1], 'phase', ARGV[3], 'reason', ARGV[4], 'until', until_in(ARGV[5]))
redis.call('PUBLISH', '{CUT_OVER_NOTICES}', ARGV[3])
return read(KEYS[1])
"""
)

# What one server says, in the phase it was asked in. ARGV: id, phase, server, its state.
SAY = (
    READ
    + f"""
if redis.call('HGET', KEYS[1], 'id') == ARGV[1] and redis.call('HGET', KEYS[1], 'phase') == ARGV[2]
  and redis.call('HEXISTS', KEYS[1], '{FIELD}' .. ARGV[3]) == 1 then
  redis.call('HSET', KEYS[1], '{FIELD}' .. ARGV[3], ARGV[4])
end
return read(KEYS[1])
"""
)


@dataclass(frozen=True, slots=True)
class CutOver:
    """`servers`: who takes part, and what each says: nothing yet, ready, held, lost, or `refused: ` why.
    `running`: neither ended nor left alone by its coordinator."""

    id: str
    version: str
    coordinator: str
    phase: Phase
    reason: str
    running: bool
    servers: Mapping[str, str] = field(default_factory=dict)

    def saying(self, *states: str) -> list[str]:
        """The servers that say one of `states`."""
        return sorted(server for server, said in self.servers.items() if said in states)

    def refusals(self) -> dict[str, str]:
        """Who refused, and why."""
        return {
            server: said.removeprefix(REFUSED)
            for server, said in sorted(self.servers.items())
            if said.startswith(REFUSED)
        }


class CutOverBoard:
    """Thread-safe. Every method answers the record as it is then, None where there is none, and raises
    redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def state(self) -> CutOver | None:
        return self._eval(STATE, [CUT_OVER])

    def begin(self, id_: str, version: str, coordinator: str, lease_ms: int) -> CutOver | None:
        """A new cut-over of all live servers; that of another id where one is under way. None without
        any live server. Asked twice, it begins once."""
        return self._eval(BEGIN, [CUT_OVER, SERVICES], id_, version, coordinator, lease_ms, KEEP_S)

    def keep(self, id_: str, lease_ms: int) -> CutOver | None:
        """The coordinator is there for another `lease_ms`."""
        return self._eval(KEEP, [CUT_OVER], id_, lease_ms)

    def move(self, id_: str, now: Phase, to: Phase, reason: str = "", lease_ms: int = 0) -> CutOver | None:
        """From phase `now` to `to`, unless it has moved already."""
        return self._eval(MOVE, [CUT_OVER], id_, now, to, reason, lease_ms)

    def say(self, id_: str, phase: Phase, server: str, state: str) -> CutOver | None:
        """A server's answer, which counts while the cut-over is in `phase`."""
        return self._eval(SAY, [CUT_OVER], id_, phase, server, state)

    def _eval(self, script: str, keys: list[str], *arguments: Any) -> CutOver | None:
        raw = cast("list[bytes] | None", self._redis.eval(script, len(keys), *keys, *arguments))
        if not raw:
            return None
        fields = {name.decode(): value.decode() for name, value in zip(raw[::2], raw[1::2], strict=True)}
        return CutOver(
            id=fields["id"],
            version=fields["version"],
            coordinator=fields["coordinator"],
            phase=cast("Phase", fields["phase"]),
            reason=fields["reason"],
            running=fields["running"] == "1",
            servers={name.removeprefix(FIELD): said for name, said in fields.items() if name.startswith(FIELD)},
        )
