"""The simulated RL loop: sample, score, update the policy, measure. The scores come from a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulation.families import IN_DISTRIBUTION
from simulation.gold import gold
from simulation.measures import Estimate, Measurement, Numbers, accuracy_change, measure
from simulation.optimise import Groups, Pressure, Score, reinforce_update
from simulation.policy import Policy
from simulation.prompts import Split, draw_tasks, stream_tasks
from simulation.world import Response

# Scores of groups that the policy wrote at this optimiser step: the reward it is trained on.
Reward = Callable[[Groups, int], Sequence[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. A round is `prompts` prompts × `responses` responses and one policy update."""

    rounds: int = 20
    prompts: int = 12
    responses: int = 6
    measured_prompts: int = 32
    measure_every: int = 4
    seed: int = 0
    pressure: Pressure = field(default_factory=lambda: Pressure(learning_rate=0.5))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The policy after `step` rounds, measured by fresh responses to the held-out prompts.

    `spread_to_first` is the spread of the scores ÷ that on the initial policy's responses; `kl` is from the
    initial policy, in nats, exact.
    """

    step: int
    kl: float
    groups: Groups
    scores: Numbers
    measurement: Measurement
    spread_to_first: float


@dataclass(frozen=True, slots=True)
class Rescoring:
    """The responses of one checkpoint, scored by a second version of the reward model."""

    checkpoint: Checkpoint
    after: Measurement
    accuracy_change: Estimate


def play(plan: Plan, reward: Reward, score: Score) -> Iterator[Checkpoint]:
    """Run the plan; yields step 0, every `measure_every` rounds, and the last round.

    `reward` scores the samples that the policy learns from, `score` those that are only measured. The same
    plan and the same scores give the same texts.
    """
    sampling, measuring = np.random.default_rng([plan.seed, 0]), np.random.default_rng([plan.seed, 1])
    tasks = stream_tasks(Split.TRAINING, np.random.default_rng([plan.seed, 2]))
    held_out = draw_tasks(Split.EVALUATION, plan.measured_prompts, np.random.default_rng([plan.seed, 3]))
    policy = initial = Policy.initial(plan.seed)
    first_spread: float | None = None
    for step in range(plan.rounds + 1):
        if step % plan.measure_every == 0 or step == plan.rounds:
            groups = [policy.sample(task, plan.responses, measuring) for task in held_out]
            scores = score(groups)
            measurement = measure_groups(groups, scores, plan.seed)
            first_spread = measurement.score_spread if first_spread is None else first_spread
            yield Checkpoint(
                step,
                policy.kl(initial, list(IN_DISTRIBUTION)),
                groups,
                scores,
                measurement,
                measurement.score_spread / first_spread if first_spread else float("nan"),
            )
        if step < plan.rounds:
            batch = [policy.sample(next(tasks), plan.responses, sampling) for _ in range(plan.prompts)]
            policy = reinforce_update(policy, initial, batch, reward(batch, step), plan.pressure)


def rescore(checkpoint: Checkpoint, score: Score, seed: int) -> Rescoring:
    """Measure the checkpoint's responses with another `score`; `seed` is for the bootstrap."""
    scores = score(checkpoint.groups)
    change = accuracy_change(checkpoint.scores, scores, gold_of(checkpoint.groups), np.random.default_rng(seed))
    return Rescoring(checkpoint, measure_groups(checkpoint.groups, scores, seed), change)


def measure_groups(groups: Groups, scores: Numbers, seed: int) -> Measurement:
    """Scores against gold. The seed of the bootstrap is fixed, so that equal scores give equal figures."""
    return measure(scores, gold_of(groups), lengths_of(groups), np.random.default_rng(seed))


def gold_of(groups: Groups) -> list[list[float]]:
    """The gold reward of every response."""
    return [[gold(response) for response in group] for group in groups]


def lengths_of(groups: Groups) -> list[list[float]]:
    """The length of every response, in words."""
    return [[_words(response) for response in group] for group in groups]


def _words(response: Response) -> float:
    return float(len(response.text.split()))
