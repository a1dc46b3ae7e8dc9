"""A policy under REINFORCE whose prompts and random draws depend on seed and step alone: two policies differ
only where their scores do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from experiments.hacked.plan import DrillPlan
from metarm.records import ScoredGroup
from simulation.measures import correlation, difference_variance, pairwise_accuracy
from simulation.optimise import Groups, reinforce_update
from simulation.policy import Policy
from simulation.prompts import Split, draw_tasks, stream_tasks
from simulation.rounds import gold_of, lengths_of

# the purposes of random numbers
OPTIMISING, TRAINING_TASKS, PROBED_TASKS, PROBED_RESPONSES = range(4)
# the groups that a policy wrote at a step → a ScoredGroup each
Reward = Callable[[Groups, int], Sequence[ScoredGroup]]


@dataclass(frozen=True, slots=True)
class Update:
    """One policy update: the versions that scored its groups, and the quality of scores and responses."""

    step: int  # updates before it
    versions: list[str]  # that answered, one a group
    accuracy: float  # pairs of a prompt's responses that the scores rank as gold does
    spread: float  # standard deviation of the score difference of two responses to a prompt
    length_correlation: float  # of score and words
    gold: float  # mean over its responses
    words: float  # mean


class Learner:
    def __init__(self, plan: DrillPlan) -> None:
        self._plan = plan
        self.initial = Policy.initial(plan.seed)
        tasks = stream_tasks(Split.TRAINING, self._rng(TRAINING_TASKS))
        self._tasks = [list(islice(tasks, plan.world.prompts)) for _ in range(plan.updates)]

    def probe(self) -> Groups:
        """Responses of the initial policy to prompts that nothing trains on."""
        tasks = draw_tasks(Split.EVALUATION, self._plan.probed_prompts, self._rng(PROBED_TASKS))
        rng = self._rng(PROBED_RESPONSES)
        return [self.initial.sample(task, self._plan.world.responses, rng) for task in tasks]

    def optimise(
        self, policy: Policy, steps: range, reward: Reward, on_update: Callable[[], object]
    ) -> tuple[list[Update], Policy]:
        """From `policy`, which has been updated `steps.start` times: the updates, and the policy after them."""
        updates = []
        for step in steps:
            rng = self._rng(OPTIMISING, step)
            groups = [policy.sample(task, self._plan.world.responses, rng) for task in self._tasks[step]]
            scored = reward(groups, step)
            scores = [group.scores for group in scored]
            policy = reinforce_update(policy, self.initial, groups, scores, self._plan.world.pressure)
            updates.append(self._record(step, groups, scored))
            on_update()
        return updates, policy

    def _record(self, step: int, groups: Groups, scored: Sequence[ScoredGroup]) -> Update:
        scores, golds, words = [group.scores for group in scored], gold_of(groups), lengths_of(groups)
        return Update(
            step,
            [group.version for group in scored],
            pairwise_accuracy(scores, golds, self._rng(OPTIMISING), resamples=1).value,
            float(np.sqrt(difference_variance(scores))),
            correlation(scores, words),
            float(np.mean(golds)),
            float(np.mean(words)),
        )

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._plan.seed, *purpose])
