"""The sample log: scored groups on a Redis stream, read by the trainer's consumer group.

No other code uses Redis Streams. A group counts as used once it is acknowledged; the trainer acknowledges it
when the outcome of the run is durable. Every trainer reads under the same consumer name, so that the next one
receives what a crashed one had read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis
from redis.exceptions import ResponseError

from metarm.errors import InvalidRequestError
from metarm.records import SampleGroup, decode_sample, encode_sample
from metarm.shared.keys import SAMPLES, SAMPLES_CONSUMER, SAMPLES_GROUP, SAMPLES_TRIMMED, request_key
from metarm.shared.scripts import load_script

PAGE = 500


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """The groups of one POST /score. Its id suppresses repeats for `remember_s` seconds: a generated id only
    has to outlive the server's own retries of the write."""

    request_id: str
    groups: tuple[SampleGroup, ...]
    remember_s: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry. `group` is None if the data cannot be decoded, or was trimmed while pending."""

    id: str
    group: SampleGroup | None


class SampleLog:
    """Thread-safe. Every method raises redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._append_once = load_script(client, "sample_log")

    def append(self, requests: Sequence[LoggedRequest]) -> int:
        """Log the requests in one pipeline; return the number of groups written. A request whose id was logged
        before is not written."""
        pipeline = self._redis.pipeline(transaction=False)
        for request in requests:
            fields: list[Any] = []
            for group in request.groups:
                fields += [len(group.responses), encode_sample(group)]
            keys = [SAMPLES, request_key(request.request_id)]
            self._append_once(keys, [request.remember_s, *fields], client=pipeline)
        return sum(pipeline.execute())

    def trim(self, max_entries: int, max_age_s: float) -> dict[str, int]:
        """Drop the oldest entries over either bound; return how many each bound dropped. Redis also keeps the
        sums over all servers and restarts."""
        oldest_ms = max(0, int((time.time() - max_age_s) * 1000))
        by_age = self._redis.xtrim(SAMPLES, minid=oldest_ms, approximate=False)
        by_count = self._redis.xtrim(SAMPLES, maxlen=max_entries, approximate=False)
        trimmed = {"age": by_age, "count": by_count}
        for reason, entries in trimmed.items():
            if entries:
                self._redis.hincrby(SAMPLES_TRIMMED, reason, entries)
        return trimmed

    def count_unused(self, at_most: int) -> int:
        """Groups with two or more responses that no finished run has used, counted up to `at_most`.

        Entries are acknowledged from the front (`acknowledge_through`), so all from the first pending
        one on are unused.
        """
        self._ensure_group()
        pending = self._redis.xpending_range(SAMPLES, SAMPLES_GROUP, "-", "+", count=1)
        first = cast("bytes", pending[0]["message_id"]) if pending else b"(" + self._last_delivered()
        count = 0
        for _, fields in self._range(first, b"+"):
            count += _responses_in(fields) >= 2
            if count >= at_most:
                break
        return count

    def read_unused(self) -> Iterator[Entry]:
        """Every entry that no finished run has used, oldest first: those that an unfinished run has read, then
        new ones. They stay pending until `acknowledge_through`."""
        self._ensure_group()
        yield from self._pages(start="0")
        yield from self._pages(start=">")

    def acknowledge_through(self, last_id: str) -> int:
        """Mark the entries read, up to and including `last_id`, as used; return their number.

        A run reads everything unused, so the pending entries up to its last one are those it read.
        """
        acknowledged = 0
        while True:
            pending = self._redis.xpending_range(SAMPLES, SAMPLES_GROUP, "-", last_id, count=PAGE)
            if not pending:
                return acknowledged
            ids = [entry["message_id"] for entry in pending]
            acknowledged += self._redis.xack(SAMPLES, SAMPLES_GROUP, *ids)

    def _pages(self, start: str) -> Iterator[Entry]:
        while True:
            answer = self._redis.xreadgroup(SAMPLES_GROUP, SAMPLES_CONSUMER, {SAMPLES: start}, count=PAGE)
            entries = _stream_entries(answer)
            for id_, fields in entries:
                yield Entry(id_.decode(), _decode(fields))
            if not entries:
                return
            if start != ">":
                start = entries[-1][0].decode()

    def _last_delivered(self) -> bytes:
        groups = self._redis.xinfo_groups(SAMPLES)
        last: bytes = next(g["last-delivered-id"] for g in groups if g["name"] == SAMPLES_GROUP.encode())
        return last

    def _range(self, first: bytes, last: bytes) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        while True:
            page = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self._redis.xrange(SAMPLES, first, last, count=PAGE),
            )
            yield from page
            if len(page) < PAGE:
                return
            first = b"(" + page[-1][0]

    def _ensure_group(self) -> None:
        try:
            self._redis.xgroup_create(SAMPLES, SAMPLES_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _stream_entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream in an XREADGROUP reply: a list in RESP2, a map in RESP3."""
    if not answer:
        return []
    if isinstance(answer, dict):
        (pages,) = answer.values()
        return [entry for page in pages for entry in page]
    ((_, entries),) = answer
    return cast("list[tuple[bytes, dict[bytes, bytes]]]", entries)


def _decode(fields: dict[bytes, bytes] | None) -> SampleGroup | None:
    if not fields or b"data" not in fields:
        return None
    try:
        return decode_sample(fields[b"data"])
    except InvalidRequestError:
        return None


def _responses_in(fields: dict[bytes, bytes]) -> int:
    """The number of responses in an entry, without decoding its data; 0 for another program's entry."""
    k = fields.get(b"k", b"0")
    return int(k) if k.isdigit() else 0
