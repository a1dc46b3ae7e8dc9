"""The curve of a run stays small and averages the reports of its updates."""

from __future__ import annotations

import itertools
import random

import pytest

from trainer.meta_update import StepReport
from trainer.run_curve import MOST_POINTS, RunCurve


def reports(count: int, every: int = 1) -> list[StepReport]:
    rng = random.Random(count)
    return [
        StepReport(rng.random(), rng.random() if step % every == 0 else None, 1.0, learning_rate=1e-5)
        for step in range(count)
    ]


def test_a_short_run_keeps_every_update() -> None:
    made = reports(MOST_POINTS, every=2)
    record = RunCurve.of(made).record()
    assert record["steps"] == list(range(1, MOST_POINTS + 1))
    assert record["loss"] == [report.loss for report in made]
    assert record["difference"] == [report.difference for report in made]


@pytest.mark.parametrize("count", [201, 399, 400, 401, 5003])
def test_a_long_run_is_averaged_over_equal_spans_that_cover_every_update(count: int) -> None:
    made = reports(count, every=3)
    record = RunCurve.of(made).record()
    steps = record["steps"]
    assert len(steps) <= MOST_POINTS
    assert steps[-1] == count
    spans = {after - before for before, after in itertools.pairwise([0, *steps[:-1]])}
    assert len(spans) == 1
    first = 0
    for last, loss, difference in zip(steps, record["loss"], record["difference"], strict=True):
        part = made[first:last]
        known = [report.difference for report in part if report.difference is not None]
        assert loss == pytest.approx(sum(report.loss for report in part) / len(part))
        assert difference == (pytest.approx(sum(known) / len(known)) if known else None)
        first = last


def test_a_run_without_samples_has_no_objective() -> None:
    assert RunCurve.of(reports(3, every=10**9)[1:]).record()["difference"] == [None, None]
