"""bench/edges: bodies of the size asked for, and a table that marks figures over the aims."""

from __future__ import annotations

import pytest

from bench.edges import MB, PLAIN, Sent, row_of


@pytest.mark.parametrize("shape", PLAIN)
def test_a_body_has_about_the_size_asked_for(shape: str) -> None:
    assert 0.7 * MB < len(PLAIN[shape](MB)) <= 1.1 * MB


def test_a_row_marks_figures_over_the_aims() -> None:
    sent = [Sent("zeros", 1, 413, 0.1, 0.01, MB), Sent("zeros", 4, 400, 0.6, 0.06, 101 * MB)]
    assert row_of("zeros", sent) == "| zeros | 413, 400 | 100 · 600! | 10 · 60! | 1 · 101! |"
