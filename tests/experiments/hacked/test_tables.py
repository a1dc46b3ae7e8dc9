from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from experiments.hacked.learner import Update
from experiments.hacked.plan import DrillPlan
from experiments.hacked.play import Drill
from experiments.hacked.tables import story, summary

PARENT, HACKED = "v000001", "v000002"
PLAN = DrillPlan("length", before=3, after=5, block=4)
COMPARED = {"disagreement": 0.31, "spread_to_other": 1.9, "groups": 20}


def updates(first: int, versions: list[list[str]], gold: float) -> list[Update]:
    return [Update(first + n, by, 0.7, 1.2, 0.4, gold, 60.0) for n, by in enumerate(versions)]


def drilled(outcome: str | None = "rolled_back", **verdict: Any) -> Drill:
    served = [[PARENT] * 2] * 3 + [[HACKED] * 2, [HACKED, PARENT]] + [[PARENT] * 2] * 3
    watch = {"outcome": outcome, "reason": "why it was", "figures": {"compared": COMPARED}}
    return Drill(
        PLAN,
        PARENT,
        HACKED,
        {"verdict": {"forced": True, "reasons": ["too long", "too odd"], **verdict}},
        watch if outcome else None,
        updates(0, served, 1.5),
        updates(3, [[HACKED] * 2] * 5, -1.0),
        updates(3, [[PARENT] * 2] * 5, 2.0),
        scores_as_before=outcome == "rolled_back",
    )


def test_the_story_reports_the_forced_version_the_scoring_versions_and_the_end_of_the_watch() -> None:
    text = story(drilled())
    assert "v000002 published by force, although the gate found: too long; too odd" in text
    rows = [line.split() for line in text.splitlines() if re.match(r" +\d+-\d+ ", line)]
    assert [row[0] for row in rows] == ["1-3", "4-7", "8-8"]
    assert "v000002 3, v000001 5" in text
    assert rows[1][-3:] == ["1.50", "-1.00", "2.00"]
    assert "rolled_back after 3 groups that the policy had scored by it: why it was" in text
    assert "probe groups before the drill and now: equal to the last digit" in text


def test_the_story_reports_a_watch_that_passed_or_has_not_ended() -> None:
    assert "probe groups before the drill and now: different" in story(drilled("passed"))
    assert "the watch over v000002 has not ended" in story(drilled(None))
    assert "with the gate's approval" in story(drilled(forced=False, reasons=[]))


def test_the_summary_has_a_row_for_each_drill() -> None:
    heading, *rows = summary([drilled(), drilled(None)]).splitlines()[2:]
    assert len(rows) == 2
    assert rows[0].split()[:5] == ["length", "rolled_back", "3", "0.31", "1.90"]
    assert rows[1].split()[:6] == ["length", "not", "ended", "3", "-", "-"]
    assert heading.split()[-2:] == ["stayed", "spared"]


@pytest.mark.parametrize("outcome", ["rolled_back", "passed", None])
def test_a_drill_is_written_with_all_its_figures(outcome: str | None) -> None:
    written = orjson.loads(orjson.dumps(drilled(outcome).as_json()))
    assert written["rolled_back"] == (outcome == "rolled_back")
    assert written["hacked_groups"] == 3
    assert written["plan"]["sabotage"] == "length"
    assert len(written["served"]) == PLAN.updates == 8
