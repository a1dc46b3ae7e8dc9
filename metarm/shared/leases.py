"""Leases in Redis, shared by all servers: each keeps a version in memory until it expires or is released.

A released lease stays, marked, until it would have expired, so that a server can tell it from one that
Redis has lost. Of more than a thousand marks, those that would expire first are dropped. Layout: leases.lua.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from metarm.errors import InvalidVersionError, TooManyLeasesError
from metarm.shared.keys import LEASES
from metarm.shared.scripts import load_script

LEASE = re.compile(r"(\d+) (\S+)")  # expiry in ms, version
RELEASED = "-"  # in the version's place


@dataclass(frozen=True, slots=True)
class Listed:
    """A lease as Redis has it: its version, None once it was released, and the seconds until it expires."""

    version: str | None
    left_s: float


class LeaseBoard:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis, *, most_leases: int, most_versions: int) -> None:
        """`most_versions` bounds the distinct versions that leases name."""
        self._script = load_script(client, "clock", "leases")
        self._most_leases = most_leases
        self._most_versions = most_versions

    def create(self, lease: str, version: str, ttl_s: float) -> None:
        """Raises TooManyLeasesError."""
        most_leases, most_versions = self._most_leases, self._most_versions
        answer = self._run("create", lease, version, _ms(ttl_s), most_leases, most_versions).decode()
        if answer == "leases":
            raise TooManyLeasesError(
                f"the limit of {most_leases} leases is reached (METARM_MAX_LEASES)", limit=most_leases
            )
        if answer == "versions":
            raise TooManyLeasesError(
                f"the limit of {most_versions} versions that leases keep in memory is reached "
                "(METARM_MAX_LEASED_VERSIONS)",
                limit=most_versions,
            )

    def restore(self, lease: str, version: str, ttl_s: float) -> None:
        """Write a lease that Redis has lost; nothing changes if Redis has it, even released."""
        self._run("restore", lease, version, _ms(ttl_s))

    def renew(self, lease: str, ttl_s: float) -> Listed | None:
        """Extend a lease to `ttl_s` from now, never shorten it; return its state. None if it is not held."""
        answer = cast("list[bytes]", self._run("renew", lease, _ms(ttl_s)))
        return Listed(answer[1].decode(), int(answer[0]) / 1000) if answer else None

    def release(self, lease: str) -> bool:
        """False if the lease is not held."""
        return bool(self._run("release", lease))

    def all(self) -> Mapping[str, Listed]:
        """Every lease that has not expired, released ones included."""
        answer = [field.decode() for field in cast("list[bytes]", self._run("list"))]
        triples = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        return {
            lease: Listed(None if version == RELEASED else version, int(left) / 1000)
            for lease, left, version in triples
        }

    def _run(self, command: str, *arguments: str | int) -> Any:
        return self._script([LEASES], [command, *arguments])


def leased_versions(client: redis.Redis) -> dict[str, int]:
    """The number of leases on each version now. Raises redis.RedisError, and InvalidVersionError for an
    unreadable lease: the version that it protects is unknown."""
    seconds, micros = client.time()
    now_ms = 1000 * seconds + micros // 1000
    counts: dict[str, int] = {}
    for lease, field in cast("dict[bytes, bytes]", client.hgetall(LEASES)).items():
        found = LEASE.fullmatch(field.decode(errors="replace"))
        if found is None:
            raise InvalidVersionError(f"the lease {lease.decode(errors='replace')} cannot be read: {field!r}")
        expiry_ms, version = int(found[1]), found[2]
        if version != RELEASED and expiry_ms > now_ms:
            counts[version] = counts.get(version, 0) + 1
    return counts


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
