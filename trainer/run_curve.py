"""A run's learning curve in a bounded number of points, for the job record that every update writes."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any, NamedTuple

from trainer.meta_update import StepReport

MOST_POINTS = 200


class _Span(NamedTuple):
    """Sums over consecutive updates. `compared` counts those that computed J (or C)."""

    last: int
    updates: int
    loss: float
    compared: int
    difference: float

    def plus(self, later: _Span) -> _Span:
        return _Span._make([later.last, *map(add, self[1:], later[1:])])


class RunCurve:
    """Means over spans of updates. Once there are MOST_POINTS spans, neighbours are merged in pairs."""

    def __init__(self) -> None:
        self._spans: list[_Span] = []
        self._updates_of_span = 1

    @classmethod
    def of(cls, reports: Sequence[StepReport]) -> RunCurve:
        """The curve of a whole run, from its first update on."""
        curve = cls()
        for step, report in enumerate(reports, start=1):
            curve.add(step, report)
        return curve

    def add(self, step: int, report: StepReport) -> None:
        known = report.difference is not None
        new = _Span(step, 1, report.loss, int(known), report.difference or 0.0)
        if self._spans and self._spans[-1].updates < self._updates_of_span:
            self._spans[-1] = self._spans[-1].plus(new)
            return
        if len(self._spans) == MOST_POINTS:
            pairs = zip(self._spans[::2], self._spans[1::2], strict=True)
            self._spans = [one.plus(other) for one, other in pairs]
            self._updates_of_span *= 2
        self._spans.append(new)

    def record(self) -> dict[str, Any]:
        """For each span its last update, and the means; `difference` is None if J was not computed."""
        return {
            "steps": [span.last for span in self._spans],
            "loss": [span.loss / span.updates for span in self._spans],
            "difference": [span.difference / span.compared if span.compared else None for span in self._spans],
        }
