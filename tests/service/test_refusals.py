from __future__ import annotations

import logging

import pytest

from service.refusals import MOST, Refusals


def test_a_version_refused_again_is_one_entry_with_its_last_reason_and_is_logged_when_that_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted: list[int] = []
    refused = Refusals(lambda: counted.append(1))
    with caplog.at_level(logging.ERROR):
        refused("v000001", "no manifest")
        refused("v000002", "NaN")
        refused("v000001", "no manifest")
        refused("v000001", "a flipped bit")
    second, first = refused.all()
    assert (second.name, second.reason, second.times) == ("v000002", "NaN", 1)
    assert (first.name, first.reason, first.times) == ("v000001", "a flipped bit", 3)
    assert first.first <= second.first <= first.last
    assert len(counted) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "refused v000001: no manifest",
        "refused v000002: NaN",
        "refused v000001: a flipped bit",
    ]


def test_only_the_last_ones_are_kept() -> None:
    refused = Refusals(lambda: None)
    for number in range(MOST + 5):
        refused(f"v{number:06d}", "no manifest")
    assert [refusal.name for refusal in refused.all()] == [f"v{number:06d}" for number in range(5, MOST + 5)]
