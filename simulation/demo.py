"""The demo: an RL worker against a server, then a retrain, then the same responses scored again.

It only measures, and reports whether the retrained version is better, worse or rejected.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from tqdm import tqdm

from metarm.client import RewardClient
from metarm.errors import ClientError
from simulation.optimise import Groups, as_request
from simulation.report import change_rows, change_sentences, checkpoint_row, checkpoint_table
from simulation.rounds import Checkpoint, Plan, Rescoring, play, rescore

GROUPS_PER_REQUEST = 8
POLICY_NAME = "demo"
SWAP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of the demo; `job` is the last state of the retrain as the server reports it."""

    plan: Plan
    version: str
    checkpoints: Sequence[Checkpoint]
    job: Mapping[str, Any]
    rescorings: Sequence[Rescoring]  # initial responses, then drifted ones; empty if not published

    def as_json(self) -> dict[str, Any]:
        """All figures, without the texts."""
        return {
            "plan": asdict(self.plan),
            "version": self.version,
            "checkpoints": [_checkpoint_json(checkpoint) for checkpoint in self.checkpoints],
            "retrain": dict(self.job),
            "after_retrain": [
                {
                    "responses_of_step": rescoring.checkpoint.step,
                    "before": rescoring.checkpoint.measurement.as_dict(),
                    "after": rescoring.after.as_dict(),
                    "accuracy_change": asdict(rescoring.accuracy_change),
                }
                for rescoring in self.rescorings
            ],
        }


class ServedReward:
    """Scores from one pinned version of the server, GROUPS_PER_REQUEST groups a request."""

    def __init__(self, client: RewardClient, version: str) -> None:
        self._client = client
        self.version = version

    def score(self, groups: Groups) -> list[tuple[float, ...]]:
        """Scores for measurement; the server logs nothing."""
        return list(self._scores(groups, {"log": False}))

    def reward(self, groups: Groups, step: int) -> list[tuple[float, ...]]:
        """Scores of samples of the policy at `step`, which the server logs and may learn from."""
        return list(self._scores(groups, {"policy": {"name": POLICY_NAME, "step": step}}))

    def _scores(self, groups: Groups, options: Mapping[str, Any]) -> Iterator[tuple[float, ...]]:
        for start in range(0, len(groups), GROUPS_PER_REQUEST):
            body = as_request(groups[start : start + GROUPS_PER_REQUEST])
            result = self._client.score(body, version=self.version, **options)
            yield from (group.scores for group in result.groups)


def changes(plan: Plan, url: str, version: str) -> str:
    """What `run_demo` changes at a server of others, in sentences."""
    measured = len(range(0, plan.rounds, plan.measure_every)) + 1
    scored = measured * plan.measured_prompts
    return "\n".join(
        [
            f"The demo changes the server at {url}, which serves {version} now:",
            f"- {plan.rounds * plan.prompts} groups of a toy policy, {POLICY_NAME!r}, enter the sample log, "
            "and retrains may learn from them;",
            "- a retrain starts on all samples that no run has used, other clients' too; if the gate accepts "
            "its candidate, that becomes the current version for all clients;",
            f"- these groups, and {scored} or more that are only measured, count in the drift figures.",
            f"POST /versions/{version}/activate returns to {version}; the samples stay.",
        ]
    )


def run_demo(
    client: RewardClient, plan: Plan, retrain_options: Mapping[str, Any], timeout_s: float, out: TextIO
) -> Outcome:
    """Play the plan, retrain, score the first and last responses again; tables go to `out`, progress to stderr.

    Raises ClientError if the server refuses a request, TimeoutError for a retrain longer than `timeout_s`.
    """
    version = str(client.ready()["version"])
    served = ServedReward(client, version)
    groups = plan.rounds * plan.prompts
    print(
        f"reward model {version}; {plan.rounds} rounds of {plan.prompts} prompts × {plan.responses} responses "
        f"({groups} groups to the sample log), measured on {plan.measured_prompts} held-out prompts\n",
        file=out,
    )
    print(checkpoint_table(), file=out, flush=True)
    checkpoints = []
    with tqdm(total=plan.rounds, unit="round", disable=None, leave=False) as bar:
        for checkpoint in play(plan, served.reward, served.score):
            bar.update(checkpoint.step - bar.n)
            bar.clear()
            print(checkpoint_row(checkpoint), file=out, flush=True)
            checkpoints.append(checkpoint)

    job = _retrain(client, retrain_options, timeout_s)
    print(f"\n{_job_sentence(job)}", file=out, flush=True)
    rescorings: list[Rescoring] = []
    if job["status"] == "published":
        after = _when_served(client, str(job["candidate"]))
        rescorings = [rescore(c, after.score, plan.seed) for c in (checkpoints[0], checkpoints[-1])]
        print(f"\n{change_rows(version, after.version, rescorings)}\n", file=out)
        print(change_sentences(rescorings), file=out, flush=True)
    return Outcome(plan, version, checkpoints, job, rescorings)


def _retrain(client: RewardClient, options: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Request a retrain and wait for its end; returns the job."""
    job_id = str(client.retrain(**options)["job"])
    with tqdm(desc="retraining", unit="step", disable=None, leave=False) as bar:

        def show(state: dict[str, Any]) -> None:
            bar.total = state["progress"]["steps"]
            bar.update(state["progress"]["step"] - bar.n)

        return client.wait_for_job(job_id, timeout_s=timeout_s, on_progress=show)


def _when_served(client: RewardClient, version: str) -> ServedReward:
    """The scores of a version just published, once the server serves it."""
    deadline = time.monotonic() + SWAP_TIMEOUT_S
    while client.ready()["version"] != version:
        if time.monotonic() > deadline:
            message = f"{version} is published, and after {SWAP_TIMEOUT_S:.0f} s the server does not serve it"
            raise ClientError(message, error_code="not_served")
        time.sleep(0.2)
    return ServedReward(client, version)


def _job_sentence(job: Mapping[str, Any]) -> str:
    """How the retrain ended, with the server's reasons."""
    name = f"retrain {job['job']}"
    match job["status"]:
        case "published":
            return f"{name}: published {job['candidate']}"
        case "rejected":
            verdict = job["verdict"] or {}
            reasons = "; ".join(verdict.get("reasons", [])) or "no reason given"
            remedies = "".join(f" {remedy}." for remedy in verdict.get("remedies", []))
            return f"{name}: rejected {job['candidate']}: {reasons}. Its parent continues to serve.{remedies}"
        case "failed":
            return f"{name}: failed: {(job['error'] or {}).get('message', 'no reason given')}"
        case status:
            return f"{name}: {status}"


def _checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "kl": checkpoint.kl,
        "spread_to_first": checkpoint.spread_to_first,
        **checkpoint.measurement.as_dict(),
    }
