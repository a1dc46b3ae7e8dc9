"""Leases in Redis, where every server of one Redis finds them. The only commands on their key. No torch.

A lease is one field of one hash: id → "EXPIRY VERSION", the expiry in milliseconds of Redis' own clock.
One that was given back stays as "EXPIRY -" until then, so that a server can tell it from one that Redis
lost. Whoever reads drops what is over, and the hash goes with the last one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from metarm.errors import InvalidVersionError, TooManyLeasesError
from metarm.shared.keys import LEASES

LEASE = re.compile(r"(\d+) (\S+)")  # expiry, version
GIVEN_BACK = "-"  # in the version's place

# What every script begins with: the time, and what is not over. `left` is id → {expiry, version}.
READ = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields, left = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #fields, 2 do
    local expiry, version = string.match(fields[i + 1], '^(%d+) (.+)$')
    if tonumber(expiry) <= now then
        redis.call('HDEL', KEYS[1], fields[i])
    else
        left[fields[i]] = {tonumber(expiry), version}
    end
end
local function put(id, expiry, version)
    left[id] = {expiry, version}
    redis.call('HSET', KEYS[1], id, string.format('%.0f %s', expiry, version))
    local last = 0
    for _, lease in pairs(left) do last = math.max(last, lease[1]) end
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', last - now + 1000))
end
"""
# ARGV: id, version, ms, most leases, most versions. Answers 1, or what there are too many of.
CREATE = (
    READ
    + """
local leases, versions, seen = 0, 0, {}
for _, lease in pairs(left) do
    if lease[2] ~= '-' then
        leases = leases + 1
        if not seen[lease[2]] then versions, seen[lease[2]] = versions + 1, true end
    end
end
if leases >= tonumber(ARGV[4]) then return 'leases' end
if not seen[ARGV[2]] and versions >= tonumber(ARGV[5]) then return 'versions' end
put(ARGV[1], now + tonumber(ARGV[3]), ARGV[2])
return 'ok'
"""
)
# ARGV: id, version, ms. Only if nothing is known of it.
RESTORE = READ + "if not left[ARGV[1]] then put(ARGV[1], now + tonumber(ARGV[3]), ARGV[2]) end"
# ARGV: id, ms. Answers how long it lasts now, in ms, and its version; nothing where there is none.
RENEW = (
    READ
    + """
local lease = left[ARGV[1]]
if not lease or lease[2] == '-' then return {} end
put(ARGV[1], math.max(lease[1], now + tonumber(ARGV[2])), lease[2])
return {string.format('%.0f', left[ARGV[1]][1] - now), lease[2]}
"""
)
# ARGV: id. Answers 1, or 0 where there is none.
RELEASE = (
    READ
    + """
local lease = left[ARGV[1]]
if not lease or lease[2] == '-' then return 0 end
put(ARGV[1], lease[1], '-')
return 1
"""
)
# Answers id, ms left, version, id, …
LIST = (
    READ
    + """
local found = {}
for id, lease in pairs(left) do
    table.insert(found, id)
    table.insert(found, string.format('%.0f', lease[1] - now))
    table.insert(found, lease[2])
end
return found
"""
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A lease as Redis has it: the version, None once it was given back, and the seconds it lasts."""

    version: str | None
    left_s: float


class LeaseBoard:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis, *, most_leases: int, most_versions: int) -> None:
        self._redis = client
        self._most_leases = most_leases
        self._most_versions = most_versions

    def create(self, lease: str, version: str, ttl_s: float) -> None:
        """Raises TooManyLeasesError."""
        bounds = (self._most_leases, self._most_versions)
        answer = self._run(CREATE, lease, version, _ms(ttl_s), *bounds).decode()
        if answer == "leases":
            raise TooManyLeasesError(f"{bounds[0]} leases are held, as many as may be", limit=bounds[0])
        if answer == "versions":
            raise TooManyLeasesError(
                f"leases keep {bounds[1]} versions in memory, as many as they may", limit=bounds[1]
            )

    def restore(self, lease: str, version: str, ttl_s: float) -> None:
        """Write one that Redis has lost; nothing where it is known, as given back too."""
        self._run(RESTORE, lease, version, _ms(ttl_s))

    def renew(self, lease: str, ttl_s: float) -> Listed | None:
        """Let it last `ttl_s` from now, if that is longer; return what it is now. None: there is none."""
        answer = cast("list[bytes]", self._run(RENEW, lease, _ms(ttl_s)))
        return Listed(answer[1].decode(), int(answer[0]) / 1000) if answer else None

    def release(self, lease: str) -> bool:
        """Give it back; False where there is none."""
        return bool(self._run(RELEASE, lease))

    def all(self) -> Mapping[str, Listed]:
        """Every lease that is not over, and those given back before their time."""
        answer = [field.decode() for field in cast("list[bytes]", self._run(LIST))]
        triples = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        return {
            lease: Listed(None if version == GIVEN_BACK else version, int(left) / 1000)
            for lease, left, version in triples
        }

    def _run(self, script: str, *arguments: str | int) -> Any:
        return self._redis.eval(script, 1, LEASES, *arguments)


def leased_versions(client: redis.Redis) -> dict[str, int]:
    """How many leases name each version now. Raises redis.RedisError, and InvalidVersionError for a lease
    that cannot be read: what it protects is not known."""
    seconds, micros = client.time()
    now_ms = 1000 * seconds + micros // 1000
    counts: dict[str, int] = {}
    for lease, field in cast("dict[bytes, bytes]", client.hgetall(LEASES)).items():
        found = LEASE.fullmatch(field.decode(errors="replace"))
        if found is None:
            raise InvalidVersionError(f"the lease {lease.decode(errors='replace')} cannot be read: {field!r}")
        expiry_ms, version = int(found[1]), found[2]
        if version != GIVEN_BACK and expiry_ms > now_ms:
            counts[version] = counts.get(version, 0) + 1
    return counts


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
