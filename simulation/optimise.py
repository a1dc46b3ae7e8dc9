"""REINFORCE: updates a policy towards a higher reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulation.policy import Policy
from simulation.world import Response

Groups = Sequence[Sequence[Response]]
Score = Callable[[Groups], Sequence[Sequence[float]]]  # the shape of the groups; higher is better


@dataclass(frozen=True, slots=True)
class Pressure:
    """The strength of the optimisation.

    With `standardise`, rewards are divided by their standard deviation within groups, averaged over
    the batch, so that the pressure does not fade with the reward model's spread. `kl_weight` is
    per nat of log-ratio to the reference, in units of the (standardised) reward.
    """

    learning_rate: float = 0.3
    kl_weight: float = 0.02
    standardise: bool = True


def reinforce_update(
    policy: Policy,
    reference: Policy,
    groups: Groups,
    rewards: Sequence[Sequence[float]],
    pressure: Pressure,
) -> Policy:
    """One step of ∇ E[reward - kl_weight · log(policy / reference)], estimated from `groups`.

    Every response is compared with the mean of the others to its prompt (leave-one-out baseline),
    so the estimate is unbiased; groups need at least 2 responses. `groups` are samples of `policy`.
    """
    scale = _spread(rewards) if pressure.standardise else 1.0
    responses: list[Response] = []
    weights: list[float] = []
    for group, scores in zip(groups, rewards, strict=True):
        values = np.array(scores, dtype=np.float64) / scale
        values -= pressure.kl_weight * np.array([policy.log_prob(r) - reference.log_prob(r) for r in group])
        advantages = (values - values.mean()) * len(values) / (len(values) - 1)
        responses.extend(group)
        weights.extend(advantages / len(values) / len(groups))
    gradient = policy.score_gradient(responses, weights)
    return Policy(policy.theta + pressure.learning_rate * gradient)


def as_request(groups: Groups) -> list[dict[str, Any]]:
    """The groups as POST /score takes them."""
    return [
        {"prompt": group[0].task.prompt, "responses": [response.text for response in group]} for group in groups
    ]


def _spread(rewards: Sequence[Sequence[float]]) -> float:
    """Mean within-group standard deviation; 1 where nothing varies."""
    return float(np.mean([np.std(scores) for scores in rewards])) or 1.0
