"""The sample log: scored groups on a Redis stream, of which a run reads the newest.

No other code uses Redis Streams. The position of a consumer group is the last entry that counts as used; the
trainer moves it when the outcome of the run is durable (docs/decisions/0001). Nothing is claimed, so the next
trainer reads what a crashed one had read. Redis counts the entries that nobody wants, and does not send them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import orjson
import redis
from redis.exceptions import ResponseError

from metarm.errors import InvalidRequestError
from metarm.records import SAMPLE_BEGINS, SampleGroup, decode_sample, encode_sample
from metarm.shared.keys import SAMPLES, SAMPLES_CONSUMER, SAMPLES_GROUP, SAMPLES_TRIMMED, request_key
from metarm.shared.scripts import load_script

TRIM_AT_ONCE = 5_000  # entries: a few milliseconds of Redis' time


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """The groups of one POST /score. Its id suppresses repeats for `remember_s` seconds: a generated id only
    has to outlive the server's own retries of the write."""

    request_id: str
    groups: tuple[SampleGroup, ...]
    remember_s: int

    @property
    def content(self) -> str:
        """A digest of its texts."""
        texts = orjson.dumps([(group.prompt, group.responses) for group in self.groups])
        return blake2b(texts, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class SampleRange:
    """The groups of a run: the newest `groups` of two or more responses among the entries from `first_entry` to
    `last_entry`. Trimming takes the oldest, so those that are left can be told."""

    first_entry: str
    last_entry: str
    groups: int


Ranges = Sequence[SampleRange]  # disjoint, oldest first


@dataclass(frozen=True, slots=True)
class Unused:
    """Of all entries that no finished run has used, or of those in a range: the newest groups of two or more
    responses, oldest first, the ids of the oldest and of the newest entry ("" without any), and the number of
    entries by what a run does with them: used, superseded (older groups), single_response, unreadable (another
    codec or program)."""

    groups: list[SampleGroup]
    first_entry: str
    last_entry: str
    counts: dict[str, int]

    @property
    def several(self) -> int:
        """Groups of two or more responses."""
        return self.counts["used"] + self.counts["superseded"]


class Reusable(NamedTuple):
    """Groups of two or more responses that a run with reuse can use: those of the former run that are `left`
    in the log, and those that are `newer` and unused; and how many of the former were `trimmed`."""

    left: int
    newer: int
    trimmed: int


class _Page(NamedTuple):
    """The answer of unused_samples.lua: a page of entries, and the data of its wanted groups, newest first."""

    newest: bytes
    oldest: bytes
    is_last: bool
    groups: int
    single: int
    unreadable: int
    data: list[bytes]


class _Counted(NamedTuple):
    """Where the unused entries began, the newest one that was counted, and the groups among them."""

    begins: tuple[str, bytes | None]
    newest: bytes
    groups: int


class SampleLog:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._append_once = load_script(client, "sample_log")
        self._unused_page = load_script(client, "unused_samples")
        self._counted: _Counted | None = None

    def append(self, requests: Sequence[LoggedRequest]) -> int:
        """Log the requests in one pipeline; return the number of groups written. A request whose id was logged
        before with the same texts is not written."""
        pipeline = self._redis.pipeline(transaction=False)
        for request in requests:
            fields: list[Any] = []
            for group in request.groups:
                fields += [len(group.responses), encode_sample(group)]
            keys = [SAMPLES, request_key(request.request_id, request.content)]
            self._append_once(keys, [request.remember_s, *fields], client=pipeline)
        return sum(pipeline.execute())

    def trim(self, max_entries: int, max_age_s: float) -> dict[str, int]:
        """Drop the oldest entries over either bound; return how many each bound dropped. Redis also keeps the
        sums over all servers and restarts."""
        oldest_ms = max(0, int((time.time() - max_age_s) * 1000))
        trimmed = {"age": self._trim(oldest_ms=oldest_ms), "count": self._trim(max_entries)}
        for reason, entries in trimmed.items():
            if entries:
                self._redis.hincrby(SAMPLES_TRIMMED, reason, entries)
        return trimmed

    def count_unused(self, at_most: int) -> int:
        """Groups with two or more responses that no finished run has used, counted up to `at_most`. A second
        call counts only what is new, unless entries were used or trimmed meanwhile."""
        first = self._first_unused()
        oldest = cast("list[tuple[bytes, object]]", self._redis.xrange(SAMPLES, first, count=1))
        begins = (first, oldest[0][0] if oldest else None)
        known = self._counted if self._counted and self._counted.begins == begins else None
        count, newest = known.groups if known else 0, known.newest if known else b""
        for page in self._pages("+", f"({newest.decode()}" if newest else first, lambda: 0):
            newest = max(newest, page.newest, key=_place)
            count += page.groups
            if count >= at_most:
                return at_most
        self._counted = _Counted(begins, newest, count)
        return count

    def read_unused(self, most: int, reused: Ranges = ()) -> Unused:
        """The newest `most` groups with two or more responses that no finished run has used. Only they are sent
        and decoded, whatever else lies there. They stay unused until `acknowledge_through`.

        With `reused`, those among them that are newer than these ranges."""
        return self._read("+", self._first_unused_after(reused), most)

    def read_again(self, ranges: Ranges, most: int) -> tuple[list[SampleGroup], list[SampleRange], Reusable]:
        """The newest `most` groups of `ranges` that are still in the log, oldest first; the ranges of just
        these; and how many are left, whatever `most` is."""
        groups: list[SampleGroup] = []
        taken: list[SampleRange] = []
        left = 0
        for former in reversed(ranges):
            wanted = min(former.groups, most - len(groups))
            found = self._read(former.last_entry, former.first_entry, wanted)
            left += min(former.groups, found.several)
            groups[:0] = found.groups
            if found.groups:
                taken.insert(0, replace(former, groups=len(found.groups)))
        return groups, taken, Reusable(left, 0, sum(former.groups for former in ranges) - left)

    def count_unused_of(self, ranges: Ranges) -> int:
        """The groups of `ranges` that no finished run has used."""
        begins = _begins(self._first_unused())
        return sum(part.groups for part in ranges if _place(part.last_entry.encode()) >= begins)

    def count_reusable(self, ranges: Ranges) -> Reusable:
        """Without their data."""
        _, _, found = self.read_again(ranges, 0)
        return found._replace(newer=self.read_unused(0, ranges).several)

    def acknowledge_through(self, last_id: str) -> None:
        """Mark every entry up to and including `last_id` as used. Nothing changes if it is used already."""
        if _place(last_id.encode()) < _begins(self._first_unused()):
            return
        with self._redis.pipeline() as pipeline:
            # an earlier release claims what it reads: what it had claimed ends with its consumer
            pipeline.xgroup_delconsumer(SAMPLES, SAMPLES_GROUP, SAMPLES_CONSUMER)
            pipeline.xgroup_setid(SAMPLES, SAMPLES_GROUP, last_id)
            pipeline.execute()

    def _read(self, newest: str, oldest: str, most: int) -> Unused:
        """Both ids are as XREVRANGE takes them."""
        groups: list[SampleGroup] = []
        first = last = b""
        several = single = unreadable = 0
        for page in self._pages(newest, oldest, lambda: most - len(groups)):
            decoded = [group for group in map(_decode, page.data) if group is not None]
            broken = len(page.data) - len(decoded)
            groups.extend(decoded)
            several, single = several + page.groups - broken, single + page.single
            unreadable += page.unreadable + broken
            first, last = page.oldest or first, last or page.newest
        counts = {
            "used": len(groups),
            "superseded": several - len(groups),
            "single_response": single,
            "unreadable": unreadable,
        }
        return Unused(groups[::-1], first.decode(), last.decode(), counts)

    def _pages(self, newest: str, oldest: str, wanted: Callable[[], int]) -> Iterator[_Page]:
        """The entries from `newest` back to `oldest`, a page at a time. `wanted` returns the number of groups
        whose data is still wanted."""
        while True:
            page = _Page(*self._unused_page([SAMPLES], [newest, oldest, max(0, wanted()), SAMPLE_BEGINS]))
            yield page
            if page.is_last:
                return
            newest = f"({page.oldest.decode()}"

    def _first_unused_after(self, ranges: Ranges) -> str:
        """Where the unused entries begin that are newer than `ranges`, as XRANGE takes it."""
        first = self._first_unused()
        if not ranges or _place(ranges[-1].last_entry.encode()) < _begins(first):
            return first
        return f"({ranges[-1].last_entry}"

    def _first_unused(self) -> str:
        """Where the unused entries begin, as XRANGE takes it: at the first claim of an earlier release, else
        after the group's position."""
        self._ensure_group()
        claimed = self._redis.xpending_range(SAMPLES, SAMPLES_GROUP, "-", "+", count=1)
        if claimed:
            return cast("bytes", claimed[0]["message_id"]).decode()
        groups = self._redis.xinfo_groups(SAMPLES)
        used: bytes = next(g["last-delivered-id"] for g in groups if g["name"] == SAMPLES_GROUP.encode())
        return f"({used.decode()}"

    def _ensure_group(self) -> None:
        try:
            self._redis.xgroup_create(SAMPLES, SAMPLES_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _trim(self, max_entries: int | None = None, oldest_ms: int | None = None) -> int:
        """Whole nodes of the stream in steps, so that no command blocks Redis for long; then the exact rest."""
        trimmed = 0
        while step := self._redis.xtrim(SAMPLES, max_entries, True, oldest_ms, TRIM_AT_ONCE):
            trimmed += step
        return trimmed + self._redis.xtrim(SAMPLES, max_entries, approximate=False, minid=oldest_ms)


def _decode(data: bytes) -> SampleGroup | None:
    try:
        return decode_sample(data)
    except InvalidRequestError:
        return None


def _place(entry_id: bytes) -> tuple[int, int]:
    """A stream id as Redis orders it; an empty one comes first."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms or 0), int(sequence or 0)


def _begins(first: str) -> tuple[int, int]:
    """The place of the first entry of a range that XRANGE begins at `first`: "(" excludes that entry itself."""
    ms, sequence = _place(first.removeprefix("(").encode())
    return (ms, sequence + 1) if first.startswith("(") else (ms, sequence)
