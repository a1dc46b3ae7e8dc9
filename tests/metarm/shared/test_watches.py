"""The records of watches, on a real Redis."""

from __future__ import annotations

import redis

from metarm.shared.watches import KEEP, WatchBoard, WatchRecord


def test_only_the_newest_watches_are_kept(redis_client: redis.Redis) -> None:
    board = WatchBoard(redis_client)
    records = [WatchRecord(f"v{at:06d}", "v000001", "passed", float(at)) for at in range(1, KEEP + 51)]
    for record in records:
        board.save(record)
    assert board.read() == {record.version: record for record in records[50:]}
