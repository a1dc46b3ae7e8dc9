"""The report of bench/swap from given requests and swaps."""

from __future__ import annotations

import pytest

from bench.steady import Sent
from bench.swapping import Found, Swap, report


def sent(at: float, took_s: float) -> Sent:
    return Sent(at, took_s, "v000001")


def test_a_request_overlaps_the_share_of_a_swap_during_which_it_waited() -> None:
    swap = Swap(10.0, 12.0)
    assert swap.share_overlapped_by(sent(9.0, 1.5)) == pytest.approx(0.25)
    assert swap.share_overlapped_by(sent(9.0, 9.0)) == 1.0
    assert swap.share_overlapped_by(sent(13.0, 1.0)) == 0.0


def test_the_report_compares_periods_with_and_without_swaps_and_shows_the_longest_request() -> None:
    found = Found(
        without=[[sent(float(n), 0.010) for n in range(100)], [sent(400.0, 0.010)]],
        during=[[*(sent(200.0 + n, 0.012) for n in range(99)), sent(250.5, 0.050)], [sent(600.0, 0.011)]],
        swaps=[Swap(250.5, 250.6)],
        holds=2,
        held_s=0.010,
    )
    text = report(found)
    assert "p99 with swaps ÷ without: 1.20 over all requests" in text
    assert "by round 1.15 (1.10 to 1.20)" in text
    assert "50 ms, during 50% of one swap" in text
    assert "5.0 ms at a cut-over" in text
