from __future__ import annotations

from typing import Any

import pytest

from metarm.shared.jobs import Job
from service.oversight.run_effects import Effect, effect_of

TRIGGER = {"version": "v000001", "spread_to_reference": 0.2}


def effect(status: str, ratio: float | None = None, *, withdrawn: bool = False, **fields: Any) -> Effect | None:
    job = Job("job-1", status, 0.0, {}, **{"candidate": "v000002", "trigger": TRIGGER, **fields})  # type: ignore[arg-type]
    return effect_of(job, {"v000002": ratio}.__getitem__, lambda: ["v000002"] if withdrawn else [])


@pytest.mark.parametrize(
    ("status", "ratio", "helped", "mentions"),
    [
        ("published", 0.23, True, "was 0.200, and 0.230 over the first groups of v000002"),
        ("published", 0.21, False, "not raised by 10%"),
        ("published", 0.1, False, "not raised by 10%"),
        ("rejected", 0.9, False, "the gate rejected v000002"),
        ("failed", None, False, "it failed: no reason given"),
    ],
)
def test_a_run_helped_if_its_version_raised_the_ratio(
    status: str, ratio: float | None, helped: bool, mentions: str
) -> None:
    found = effect(status, ratio)
    assert found is not None
    assert found.helped == helped
    assert mentions in found.reason


def test_a_version_that_was_rolled_back_did_not_help() -> None:
    assert effect("published", 0.9, withdrawn=True) == Effect(False, "v000002 was rolled back")
    assert effect("published", None, withdrawn=True) == Effect(False, "v000002 was rolled back")


def test_a_spread_of_zero_that_stays_zero_is_not_raised() -> None:
    found = effect("published", 0.0, trigger={**TRIGGER, "spread_to_reference": 0.0})
    assert found is not None
    assert not found.helped


@pytest.mark.parametrize("status", ["queued", "running", "cancelled", "published"])
def test_the_effect_is_unknown_before_the_end_the_first_window_and_after_a_cancellation(status: str) -> None:
    assert effect(status) is None
