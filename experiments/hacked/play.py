"""The drill against a running server, over HTTP alone: optimise, force the hacked version through, continue,
and then optimise the same policy on either version alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.hacked.learner import Learner, Reward, Update
from experiments.hacked.plan import DrillPlan
from metarm.client import RewardClient
from metarm.errors import MetaRMError
from metarm.records import ScoredGroup
from simulation.optimise import Groups, as_request

GROUPS_PER_REQUEST = 8
POLICY_NAME = "drill"
RETRAIN_S = 1800.0
STARTING_RETRIES = 40  # with pauses of up to 5 s: the trainer starts after the service
ENDING_S = 10.0  # for the watch to judge the last groups
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Drill:
    """The results of a drill. `served` is the policy optimised on the current version's scores. From the update
    at which the hacked version came, `stayed` is the same policy had that version stayed, `spared` had it never
    come. `job` and `watch` are the server's records; `watch` is None while it has not ended."""

    plan: DrillPlan
    parent: str
    hacked: str
    job: Mapping[str, Any]
    watch: Mapping[str, Any] | None
    served: Sequence[Update]
    stayed: Sequence[Update]
    spared: Sequence[Update]
    scores_as_before: bool  # the probe's, before the hacked version came and after everything

    @property
    def rolled_back(self) -> bool:
        return self.watch is not None and self.watch["outcome"] == "rolled_back"

    @property
    def hacked_groups(self) -> int:
        """Groups that the policy had scored by the hacked version."""
        return sum(update.versions.count(self.hacked) for update in self.served)

    def as_json(self) -> dict[str, Any]:
        """All figures, without the texts."""
        return {**asdict(self), "rolled_back": self.rolled_back, "hacked_groups": self.hacked_groups}


def play(plan: DrillPlan, url: str, on_update: Callable[[], object]) -> Drill:
    """Play the drill. Raises MetaRMError for anything that the server at `url` refuses. Requests for scores are
    not retried: if this returns, none of them failed."""
    with RewardClient(url, retries=0) as client, RewardClient(url, retries=STARTING_RETRIES) as patient:
        learner, served = Learner(plan), _scores_as_served(client)
        parent = str(client.ready()["version"])
        probed = _probed(learner, client)
        before, policy = learner.optimise(learner.initial, range(plan.before), served, on_update)
        job = _forced(patient, plan)
        hacked = str(job["candidate"])
        then = range(plan.before, plan.updates)
        after, _ = learner.optimise(policy, then, served, on_update)
        watch = _watch_over(client, hacked)
        scores_as_before = _probed(learner, client) == probed
        stayed, spared = (
            learner.optimise(policy, then, _scores_by(client, version), on_update)[0]
            for version in (hacked, parent)
        )
    return Drill(plan, parent, hacked, job, watch, [*before, *after], stayed, spared, scores_as_before)


def _scores_as_served(client: RewardClient) -> Reward:
    """Scores by the current version, logged as samples of the policy."""

    def reward(groups: Groups, step: int) -> list[ScoredGroup]:
        return _in_requests(client, groups, {"policy": {"name": POLICY_NAME, "step": step}})

    return reward


def _scores_by(client: RewardClient, version: str) -> Reward:
    """Scores by a pinned version, not logged."""

    def reward(groups: Groups, _step: int) -> list[ScoredGroup]:
        return _in_requests(client, groups, {"version": version, "log": False})

    return reward


def _in_requests(client: RewardClient, groups: Groups, options: Mapping[str, Any]) -> list[ScoredGroup]:
    bodies = as_request(groups)
    return [
        group
        for start in range(0, len(bodies), GROUPS_PER_REQUEST)
        for group in client.score(bodies[start : start + GROUPS_PER_REQUEST], **options).groups
    ]


def _probed(learner: Learner, client: RewardClient) -> list[tuple[float, ...]]:
    """The current version's scores of the probe, in the order of its groups."""
    return [group.scores for group in _in_requests(client, learner.probe(), {"log": False})]


def _forced(client: RewardClient, plan: DrillPlan) -> dict[str, Any]:
    """Force a retrain through; returns its job once the candidate serves."""
    job_id = str(client.retrain(**{**plan.retrain, "seed": plan.seed, "force": True})["job"])
    job = client.wait_for_job(job_id, timeout_s=RETRAIN_S, poll_s=POLL_S)
    if job["status"] != "published":
        why = (job["error"] or {}).get("message") or "; ".join((job["verdict"] or {}).get("reasons", []))
        raise MetaRMError(f"retrain {job_id} should be forced through and is {job['status']}: {why}")
    return job


def _watch_over(client: RewardClient, version: str) -> dict[str, Any] | None:
    """The record of the ended watch over `version`; None where it has not ended after ENDING_S."""
    deadline = time.monotonic() + ENDING_S
    while True:
        for record in client.drift()["watch"]["ended"]:
            if record["version"] == version:
                return dict(record)
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_S)
