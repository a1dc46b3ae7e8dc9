from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.scoring.score_cache import ScoreCache


def test_a_score_is_found_by_its_version_and_tokens_alone() -> None:
    cache = ScoreCache(10)
    cache.put("v000001", b"a", 1.5)
    assert cache.get("v000001", b"a") == 1.5
    assert cache.get("v000002", b"a") is None
    assert cache.get("v000001", b"b") is None
    cache.put("v000002", b"a", -2.5)
    assert (cache.get("v000001", b"a"), cache.get("v000002", b"a")) == (1.5, -2.5)


def test_a_score_of_zero_is_a_score() -> None:
    cache = ScoreCache(10)
    cache.put("v000001", b"a", 0.0)
    assert cache.get("v000001", b"a") == 0.0


def test_the_scores_used_longest_ago_go_first() -> None:
    cache = ScoreCache(3)
    for key in (b"a", b"b", b"c"):
        cache.put("v000001", key, 1.0)
    cache.get("v000001", b"a")
    cache.put("v000001", b"d", 1.0)
    assert [cache.get("v000001", key) is not None for key in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]


def test_a_cache_of_no_entries_keeps_nothing() -> None:
    cache = ScoreCache(0)
    cache.put("v000001", b"a", 1.0)
    assert cache.get("v000001", b"a") is None
    assert len(cache) == 0


@given(st.integers(0, 5), st.lists(st.tuples(st.sampled_from(["v000001", "v000002"]), st.integers(0, 9))))
def test_no_more_entries_are_kept_than_allowed_and_none_is_another_ones(
    entries: int, keys: list[tuple[str, int]]
) -> None:
    cache = ScoreCache(entries)
    for version, number in keys:
        cache.put(version, bytes([number]), float(version[-1]) + number)
        assert len(cache) <= entries
    newest = list(dict.fromkeys(reversed(keys)))[:entries]
    assert len(cache) == len(newest)
    for version, number in set(keys):
        assert cache.get(version, bytes([number])) in (None, float(version[-1]) + number)
    if keys and entries:
        assert len({cache.get(*_key(key)) for key in keys} - {None}) > 0


def _key(key: tuple[str, int]) -> tuple[str, bytes]:
    return key[0], bytes([key[1]])
