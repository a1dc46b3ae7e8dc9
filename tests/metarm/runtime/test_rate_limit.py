from __future__ import annotations

from metarm.runtime.rate_limit import MOST_KINDS, RateLimit


def test_a_kind_is_admitted_once_in_the_time_and_the_suppressed_events_are_counted() -> None:
    limit = RateLimit(3600)
    assert limit.admit("a") == 0
    assert [limit.admit("a") for _ in range(3)] == [None] * 3
    assert limit.admit("b") == 0
    always = RateLimit(0)
    assert [always.admit("a") for _ in range(3)] == [0, 0, 0]


def test_beyond_the_most_kinds_those_admitted_longest_ago_are_forgotten() -> None:
    limit = RateLimit(3600)
    for number in range(MOST_KINDS + 10):
        assert limit.admit(number) == 0
    assert limit.admit(MOST_KINDS + 9) is None
    assert limit.admit(0) == 0  # forgotten, so it is admitted again
    assert limit.admit(20) is None
