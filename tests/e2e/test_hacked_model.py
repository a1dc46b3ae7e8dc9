"""The closed loop on real processes: a policy is optimised on a server's rewards, a reward model trained on
reversed labels is published by force, and the watch rolls it back while the policy continues."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from experiments.closed_loop.plan import FirstModelPlan, StudyPlan
from experiments.hacked.drill import SERVICE, prepared
from experiments.hacked.plan import DrillPlan
from experiments.hacked.play import play
from metarm import RewardClient
from service.settings import ServiceSettings
from simulation.private_server import PrivateServer

FIRST = FirstModelPlan(pairs=700, vocabulary=700, hidden=32, layers=1, intermediate=64, steps=120)
PLAN = DrillPlan(
    "reversed",
    seed=3,
    before=4,
    after=24,
    world=replace(StudyPlan(), first_model=FIRST),
    retrain={"ascent": "none", "steps": 120, "batch_size": 16, "learning_rate": 1e-3},
    service={"METARM_POLL_MS": "50"},
)


def test_a_hacked_model_published_by_force_is_rolled_back_while_the_policy_continues(tmp_path: Path) -> None:
    environment = prepared(PLAN, tmp_path / "models", tmp_path)
    settings = {**SERVICE, **PLAN.service, **environment}
    with PrivateServer(tmp_path, settings) as server, RewardClient(server.url) as client:
        # a pause after each update, as for a policy's own step; raises if a score request fails
        drill = play(PLAN, server.url, lambda: time.sleep(0.1))
        listed = client.versions()

    parent, hacked = drill.parent, drill.hacked
    assert drill.job["status"] == "published"
    assert drill.job["verdict"]["forced"]
    assert "orders" in "".join(drill.job["verdict"]["reasons"])

    assert drill.rolled_back
    assert listed["current"] == listed["serving"] == parent
    (rollback,) = listed["rollbacks"]
    assert rollback == drill.watch
    assert (rollback["version"], rollback["parent"]) == (hacked, parent)
    assert "differently from its parent" in rollback["reason"]
    assert rollback["figures"]["compared"]["disagreement"] > 0.6
    assert rollback["figures"]["compared"]["groups"] >= ServiceSettings.model_fields["watch_min_groups"].default
    assert rollback["figures"]["answered_groups"] <= ServiceSettings.model_fields["watch_groups"].default

    answered = [version for update in drill.served for version in update.versions]
    assert [version for version, _ in groupby(answered)] == [parent, hacked, parent]
    assert answered.count(hacked) == drill.hacked_groups
    assert drill.scores_as_before

    back = [update for update in drill.served if set(update.versions) == {parent}][PLAN.before :]
    assert np.mean([update.accuracy for update in back]) > 0.55
    assert np.mean([update.accuracy for update in drill.stayed]) < 0.45
    last = slice(-PLAN.block, None)
    served, stayed = (np.mean([u.gold for u in path[last]]) for path in (drill.served, drill.stayed))
    assert served > stayed
