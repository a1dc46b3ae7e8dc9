"""`experiments/continuity` on tiny real models: real retrains, real swaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.continuity import run, table
from tests.experiments.closed_loop.tiny_plan import TINY_PLAN

OPEN_GATE = {
    "gate_tolerance": 1.0,
    "gate_significance": 0.0,
    "gate_max_scale": 1000.0,
    "gate_min_groups": 1000,
}


def test_every_swap_of_a_run_is_recorded_by_raw_rewards_and_by_calibrated_scores(tmp_path: Path) -> None:
    plan = replace(TINY_PLAN, rounds=3, trainer={**TINY_PLAN.trainer, **OPEN_GATE})
    swaps, refused = run(plan, "none", 5, tmp_path)
    assert refused == 0
    assert [each.version for each in swaps] == ["v000002", "v000003"]
    for each in swaps:
        # a linear map of all scores does not change advantages that are normalised within groups
        assert each.raw.grpo_flips == pytest.approx(each.calibrated.grpo_flips, abs=0.05)
        assert each.raw.informed == pytest.approx(each.calibrated.informed, abs=0.05)
    shown = table(swaps, {"none": 0}).splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [["none", "raw", "2"], ["none", "calibrated", "2"]]


def test_a_rejected_candidate_is_not_recorded_as_a_swap(tmp_path: Path) -> None:
    plan = replace(TINY_PLAN, retrain={**TINY_PLAN.retrain, "learning_rate": 1.0})
    swaps, refused = run(plan, "none", 5, tmp_path)
    assert (len(swaps), refused) == (0, 1)
