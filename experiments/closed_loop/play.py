"""One run, of a seed and an arm: optimise for a round, measure, retrain, measure again, and so on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from experiments.closed_loop.plan import FIXED, Arm, StudyPlan
from experiments.closed_loop.records import (
    DIGITS,
    VARIANCE_DIGITS,
    ArmRun,
    PromptSet,
    RetrainRecord,
    RoundRecord,
    SetRecord,
    StepRecord,
    VersionFigures,
)
from experiments.closed_loop.reward_models import RewardModels
from simulation.families import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from simulation.gold import gold
from simulation.measures import Numbers, difference_variance, measure
from simulation.optimise import Groups, reinforce_update
from simulation.policy import Policy
from simulation.prompts import Split, draw_tasks, stream_tasks
from simulation.rounds import gold_of, lengths_of
from simulation.world import Task

FAMILIES = list(IN_DISTRIBUTION)
Sets = Mapping[PromptSet, Groups]
# the purposes that random numbers are drawn for: the same for every arm of a seed
OPTIMISING, MEASURING, TRAINING_TASKS, IN_TASKS, OUT_TASKS, BEST_OF, INITIAL_SAMPLES, BOOTSTRAP = range(8)


def play(plan: StudyPlan, arm: Arm, seed: int, models: RewardModels) -> ArmRun:
    """Run the plan. The same plan, seed, arm and scores give the same record, except its seconds."""
    started = time.monotonic()
    run = _Run(plan, arm, seed, models)
    rounds = list(run.rounds())
    return ArmRun(seed, arm.name, rounds, run.steps, run.best_of_gold, round(time.monotonic() - started, 2))


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """The held-out prompts."""

    tasks: Mapping[PromptSet, list[Task]]
    responses: int
    seed: int

    def sample(self, policy: Policy, round_: int) -> dict[PromptSet, Groups]:
        """Fresh responses of `policy`."""
        rng = np.random.default_rng([self.seed, MEASURING, round_])
        return {
            name: [policy.sample(task, self.responses, rng) for task in tasks]
            for name, tasks in self.tasks.items()
        }


class _Run:
    def __init__(self, plan: StudyPlan, arm: Arm, seed: int, models: RewardModels) -> None:
        self._plan, self._arm, self._seed, self._models = plan, arm, seed, models
        self._initial = Policy.initial(seed)
        self._tasks = stream_tasks(Split.TRAINING, self._rng(TRAINING_TASKS))
        self._held_out = _HeldOut(
            {
                "in": draw_tasks(Split.EVALUATION, plan.measured_prompts, self._rng(IN_TASKS)),
                "out": draw_tasks(
                    Split.EVALUATION,
                    plan.measured_shifted_families,
                    self._rng(OUT_TASKS),
                    OUT_OF_DISTRIBUTION,
                ),
            },
            plan.measured_responses,
            seed,
        )
        self._first = self._held_out.sample(self._initial, 0)
        self._tasks_by_step: list[list[Task]] = []
        self.steps: list[StepRecord] = []
        self.best_of_gold: list[list[float]] = []

    def rounds(self) -> Iterator[RoundRecord]:
        """The initial policy, then every round."""
        if self._arm.name == FIXED:
            self.best_of_gold = list(self._best_of())
        policy = self._initial
        yield self._measured(0, policy, self._first)
        for round_ in range(1, self._plan.rounds + 1):
            policy = self._optimised(policy)
            responses = self._held_out.sample(policy, round_)
            record = self._measured(round_, policy, responses)
            if self._arm.retrain is not None and round_ < self._plan.rounds:
                retrained = self._retrained(round_)
                record = replace(record, sets=self._scored_again(record, responses), retrain=retrained)
            yield record

    def _optimised(self, policy: Policy) -> Policy:
        """`steps` updates on the current version's scores."""
        plan = self._plan
        for _ in range(plan.steps):
            step = len(self.steps)
            rng = self._rng(OPTIMISING, step)
            tasks = list(islice(self._tasks, plan.prompts))
            self._tasks_by_step.append(tasks)
            groups = [policy.sample(task, plan.responses, rng) for task in tasks]
            own = self._arm.samples == "policy"
            scores = self._models.reward(groups, step) if own else self._models.score(groups)
            golds = gold_of(groups)
            self.steps.append(
                StepRecord(
                    step,
                    round(difference_variance(scores), VARIANCE_DIGITS),
                    _short(difference_variance(golds)),
                    _short(np.mean(scores)),
                    _short(np.mean(golds)),
                )
            )
            policy = reinforce_update(policy, self._initial, groups, scores, plan.pressure)
        return policy

    def _retrained(self, round_: int) -> RetrainRecord:
        plan, arm = self._plan, self._arm
        if arm.samples == "initial":
            rng = self._rng(INITIAL_SAMPLES, round_)
            for step, tasks in enumerate(self._tasks_by_step[-plan.steps :], (round_ - 1) * plan.steps):
                self._models.reward([self._initial.sample(t, plan.responses, rng) for t in tasks], step)
        options = {**plan.retrain, **(arm.retrain or {}), "seed": 100 * self._seed + round_}
        return self._models.retrain(options)

    def _measured(self, round_: int, policy: Policy, responses: Sets) -> RoundRecord:
        sets = {
            name: SetRecord(
                gold=[[round(gold(r), 2) for r in group] for group in groups],
                gold_variance=_short(difference_variance(gold_of(groups))),
                length_mean=_short(np.mean(lengths_of(groups))),
                distinct_share=_short(_distinct_share(groups)),
                before=self._figures(groups),
                after=None,
                initial_after=None,
            )
            for name, groups in responses.items()
        }
        kl, entropy = policy.kl(self._initial, FAMILIES), policy.entropy(FAMILIES)
        return RoundRecord(round_, _short(kl), _short(entropy), sets, None)

    def _scored_again(self, record: RoundRecord, responses: Sets) -> dict[PromptSet, SetRecord]:
        return {
            name: replace(
                of_set, after=self._figures(responses[name]), initial_after=self._figures(self._first[name])
            )
            for name, of_set in record.sets.items()
        }

    def _figures(self, groups: Groups) -> VersionFigures:
        scores = self._models.score(groups)
        m = measure(scores, gold_of(groups), lengths_of(groups), self._rng(BOOTSTRAP))
        return VersionFigures(
            self._models.version,
            _short(m.score_mean),
            round(m.score_variance, VARIANCE_DIGITS),
            _short(m.accuracy.value),
            _short(m.score_length_correlation),
            _gaps(scores),
        )

    def _best_of(self) -> Iterator[list[float]]:
        """Gold of the best of n responses of the initial policy, chosen by the first version."""
        rng = self._rng(BEST_OF)
        for task in self._held_out.tasks["in"]:
            tries = [
                self._initial.sample(task, self._plan.best_of, rng) for _ in range(self._plan.best_of_tries)
            ]
            scores = self._models.score(tries)
            yield [round(gold(group[int(np.argmax(row))]), 2) for group, row in zip(tries, scores, strict=True)]

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *purpose])


def _gaps(scores: Numbers) -> list[float]:
    """|Δr| of the first and second response, the third and fourth, …"""
    return [_short(abs(a - b)) for group in scores for a, b in zip(group[0::2], group[1::2], strict=False)]


def _distinct_share(groups: Groups) -> float:
    """How many of the drafts of a prompt differ, on average, as a share of its responses."""
    return float(np.mean([len({response.draft for response in group}) / len(group) for group in groups]))


def _short(value: float | np.floating) -> float:
    return round(float(value), DIGITS)
