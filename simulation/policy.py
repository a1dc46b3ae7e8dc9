"""The policy: a parametric writer of drafts, exact in its probabilities.

Every decision of a draft has rows of parameters (see `decisions`); all of them together are one flat
vector, `theta`. The wordings of a voice are drawn uniformly, outside the policy: `log_prob`, KL and
entropy are those of the draft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from simulation.decisions import DECISION, DECISIONS, Decision, FloatArray, values_of
from simulation.initial import INITIAL_LOGITS
from simulation.world import Draft, Response, Task
from simulation.writing import write

VARIATION = 0.15  # standard deviation between initial policies, in logits
RowKey = tuple[str, str, str | int]  # decision, parent ("" for the decision's own row), parent's value


@cache
def layout() -> Mapping[RowKey, slice]:
    """Where each row of parameters lies in theta."""
    rows: dict[RowKey, slice] = {}
    end = 0
    for decision in DECISIONS:
        own: list[RowKey] = [(decision.name, "", "")]
        for key in own + [(decision.name, p, v) for p in decision.parents for v in values_of(p)]:
            rows[key] = slice(end, end + decision.width)
            end += decision.width
    return rows


def theta_size() -> int:
    """Length of theta."""
    return max(int(row.stop) for row in layout().values())


class Policy:
    """Immutable: an update makes a new policy. `theta` is (theta_size(),), read-only."""

    def __init__(self, theta: FloatArray) -> None:
        if theta.shape != (theta_size(),) or not np.isfinite(theta).all():
            raise ValueError(f"theta must be {theta_size()} finite numbers, got shape {theta.shape}")
        self.theta = theta.astype(np.float64)
        self.theta.setflags(write=False)
        self._log_probs: dict[tuple[RowKey, ...], FloatArray] = {}

    @classmethod
    def initial(cls, seed: int = 0) -> Policy:
        """The policy before any optimisation; each seed gives a slightly different one."""
        theta = np.random.default_rng(seed).normal(0.0, VARIATION, theta_size())
        for key, row in layout().items():
            stiffness = DECISION[key[0]].features.max() if key[0] == "answer" else 1.0
            theta[row] += INITIAL_LOGITS.get(key, 0.0) / stiffness
        return cls(theta)

    def sample(self, task: Task, k: int, rng: np.random.Generator) -> tuple[Response, ...]:
        """k independent responses to `task`."""
        responses = []
        for _ in range(k):
            context: dict[str, str | int] = {"family": task.family}
            for decision in DECISIONS:
                probs = np.exp(self.log_probs(decision, context))
                at = int(np.searchsorted(np.cumsum(probs), rng.random() * probs.sum(), side="right"))
                context[decision.name] = decision.options[min(at, len(probs) - 1)]
            draft = Draft(**{decision.name: context[decision.name] for decision in DECISIONS})  # type: ignore[arg-type]
            responses.append(Response(task, draft, write(task, draft, rng)))
        return tuple(responses)

    def log_prob(self, response: Response) -> float:
        """Natural logarithm of the probability of the response's draft, given its task."""
        context = _context(response)
        return float(
            sum(self.log_probs(decision, context)[_option(decision, response.draft)] for decision in DECISIONS)
        )

    def score_gradient(self, responses: Sequence[Response], weights: Sequence[float]) -> FloatArray:
        """Σ weights[i] ∇ log_prob(responses[i]) with respect to theta."""
        gradient = np.zeros_like(self.theta)
        for response, weight in zip(responses, weights, strict=True):
            context = _context(response)
            for decision in DECISIONS:
                expected = np.exp(self.log_probs(decision, context)) @ decision.features
                seen = decision.features[_option(decision, response.draft)]
                for key in _row_keys(decision, context):
                    gradient[layout()[key]] += weight * (seen - expected)
        return gradient

    def log_probs(self, decision: Decision, context: Mapping[str, str | int]) -> FloatArray:
        """Log-probabilities of the decision's options, (n_options,), given the values of its parents."""
        keys = _row_keys(decision, context)
        if keys not in self._log_probs:
            row = np.sum([self.theta[layout()[key]] for key in keys], axis=0)
            logits = decision.base + decision.features @ row
            self._log_probs[keys] = logits - np.logaddexp.reduce(logits)
        return self._log_probs[keys]

    def kl(self, reference: Policy, families: Sequence[str]) -> float:
        """KL(self ‖ reference) of a draft in nats, exact, mean over `families`."""
        total = 0.0
        for family in families:
            for context, weight in self._contexts(family):
                for decision in DECISIONS:
                    ours = self.log_probs(decision, context)
                    theirs = reference.log_probs(decision, context)
                    total += weight * float(np.exp(ours) @ (ours - theirs))
        return total / len(families)

    def entropy(self, families: Sequence[str]) -> float:
        """Entropy of a draft in nats, exact, mean over `families`."""
        total = 0.0
        for family in families:
            for context, weight in self._contexts(family):
                for decision in DECISIONS:
                    ours = self.log_probs(decision, context)
                    total -= weight * float(np.exp(ours) @ ours)
        return total / len(families)

    def _contexts(self, family: str) -> list[tuple[dict[str, str | int], float]]:
        """Every combination of the decisions that others depend on, with its probability.

        By the chain rule, a sum over drafts splits into sums over one decision given these.
        """
        contexts: list[tuple[dict[str, str | int], float]] = [({"family": family}, 1.0)]
        for name in ("effort", "answer"):
            decision = DECISION[name]
            contexts = [
                ({**context, name: option}, weight * float(np.exp(log_prob)))
                for context, weight in contexts
                for option, log_prob in zip(decision.options, self.log_probs(decision, context), strict=True)
            ]
        return contexts


def _context(response: Response) -> dict[str, str | int]:
    return {"family": response.task.family, **response.draft._asdict()}


def _option(decision: Decision, draft: Draft) -> int:
    return decision.options.index(getattr(draft, decision.name))


def _row_keys(decision: Decision, context: Mapping[str, str | int]) -> tuple[RowKey, ...]:
    own: tuple[RowKey, ...] = ((decision.name, "", ""),)
    return own + tuple((decision.name, parent, context[parent]) for parent in decision.parents)
