"""Answers contain figures under their current and deprecated names, for records of any release."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from metarm.shared.jobs import Job, public_view
from service.http.schemas.drift import ComparisonFigures, DriftReport, VersionFigures, WatchEnded
from service.http.schemas.retrain import JobState
from service.http.schemas.versions import VersionEntry
from service.oversight.drift import Comparison, Figures, Reference

REFERENCE = Reference.of({"reference": {"spread": 2.0, "low": -1.0, "high": 1.0}})
COMPARED = Comparison.of_group([0.0, 1.0], [2.0, 5.0]).view(REFERENCE, REFERENCE)
OLD = {
    "spread_to_reference": "spread_ratio",
    "other_spread_to_reference": "other_spread_ratio",
    "spread_to_other": "relative_spread",
}


def of_an_earlier_release(figures: dict[str, Any]) -> dict[str, Any]:
    return {OLD.get(name, name): value for name, value in figures.items()}


@pytest.mark.parametrize("record", [COMPARED, of_an_earlier_release(COMPARED)])
def test_drift_figures_have_both_the_current_and_the_deprecated_names(record: dict[str, Any]) -> None:
    ended = {"version": "v000002", "parent": "v000001", "outcome": "passed", "at": 1.0, "reason": None}
    watch = WatchEnded(**ended, figures={"answered_groups": 1, "compared": record})
    for answer in (ComparisonFigures.model_validate(record).model_dump(), watch.figures["compared"]):
        for new, old in OLD.items():
            assert answer[new] == answer[old] == COMPARED[new]


def test_a_version_without_a_reference_gives_the_reason_under_both_names() -> None:
    view = Figures().view(Reference.of({}))
    rest: dict[str, Any] = {"in_distribution": None, "steps": [], "older_steps": None, "shadow": []}
    seen = VersionFigures(
        version="v000001", ratio_unavailable="why", non_finite=0, total=view, window=view, **rest
    ).model_dump()
    assert seen["ratio_unavailable"] == seen["no_ratio"] == "why"
    assert seen["total"]["spread_to_reference"] is seen["total"]["spread_ratio"] is None


@pytest.mark.parametrize("name", ["spread_ratio", "spread_to_parent"])
def test_verdicts_and_triggers_have_both_names(name: str) -> None:
    verdict = {"accepted": True, "figures": {name: 0.9, "scale": 1.0}}
    trigger = {"by": "drift", "spread_ratio": 0.4}
    job = Job("job-1", "published", 1.0, {}, verdict=verdict, trigger=trigger)
    state = JobState(**public_view(job))
    entry = VersionEntry(
        name="v000002", status="published", current=True, serving=True, loaded=True, verdict=verdict
    )
    for answer in (state.verdict, entry.verdict):
        assert answer is not None
        assert answer["figures"] == {"spread_ratio": 0.9, "spread_to_parent": 0.9, "scale": 1.0}
    assert state.trigger == {**trigger, "spread_to_reference": 0.4}


def test_deprecated_names_are_marked_in_openapi() -> None:
    app = FastAPI()
    app.get("/drift", response_model=DriftReport)(lambda: None)
    fields = app.openapi()["components"]["schemas"]["ComparisonFigures"]["properties"]
    assert {name for name, field in fields.items() if field.get("deprecated")} == set(OLD.values())
    assert fields["spread_ratio"]["description"] == "Deprecated: spread_to_reference."
