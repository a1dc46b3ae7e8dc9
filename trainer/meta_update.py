"""The paper on one page: losses, and one MetaRM update. Pure: no Redis, no disk, no settings.

Dou et al., "MetaRM: Shifted Distributions Alignment via Meta-Learning" (arXiv 2405.00438). Notation: θ the
reward model's parameters, D the labelled preferences, L the preference loss on n pairs of D, J the difference
loss on m prompts × k unlabelled responses of the shifted policy, η the ascent rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from metarm.records import Ascent

# Runs a loss forward and backward, micro-batch by micro-batch: adds its gradient to `.grad`, returns its value.
BackwardLoss = Callable[[], float]


class Difference(Protocol):
    """J on one batch of groups; for `conservative` the contrast C, which takes J's place."""

    def backward(self) -> float:
        """Add ∇J to `.grad`, and return J."""

    def hessian_product(self, parameters: Sequence[Parameter], vectors: Sequence[Tensor], scale: float) -> None:
        """Add scale · H_J v to `.grad`. H_J is the Hessian of J in `parameters`; v has one vector a
        parameter."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One update: the loss, J (or C) before the step (None if it was not computed), ‖g‖ before clipping, and
    the learning rate."""

    loss: float
    difference: float | None
    grad_norm: float
    learning_rate: float


def preference_loss(chosen: Tensor, rejected: Tensor, margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The Bradley-Terry loss of each pair (n,): -log σ(d), where d = r_chosen - r_rejected - margin.

    Its mean is the paper's L(θ). `margin` (n,) is TRL's, 0 where unknown. `label_smoothing` ε in [0, .5) is the
    assumed share of wrong labels, as in conservative DPO (TRL's option of the same name):
    -(1-ε) log σ(d) - ε log σ(-d), which is least where σ(d) = 1-ε.
    """
    gap = chosen - rejected - margin
    if label_smoothing == 0.0:
        return -F.logsigmoid(gap)
    return -(1.0 - label_smoothing) * F.logsigmoid(gap) - label_smoothing * F.logsigmoid(-gap)


def centering_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_chosen + r_rejected)² of each pair (n,): keeps scores around 0, which L does not fix.

    Eisenstein et al., "Helping or Herding?" (arXiv 2312.09244). TRL's `center_rewards_coefficient` is the
    weight of its mean.
    """
    return (chosen + rejected) ** 2


def difference_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """The difference loss of each prompt (m,): (2/k²) Σ_{i<j} σ(|r_i - r_j|). Its mean is the paper's J(θ).

    `scores` and `mask` are (m, k). A group of fewer than k responses has `mask` False at its end, and its own
    size for k. Each value lies in [(k-1)/2k, (k-1)/k); the gradient is 0 at ties.
    """
    gaps = torch.sigmoid((scores.unsqueeze(2) - scores.unsqueeze(1)).abs())  # (m, k, k)
    pairs = torch.triu(mask.unsqueeze(2) & mask.unsqueeze(1), diagonal=1)  # each unordered pair once
    sizes = mask.sum(dim=1)
    return 2.0 * (gaps * pairs).sum(dim=(1, 2)) / sizes**2


def contrast(references: Tensor, samples: Tensor, margin: float) -> Tensor:
    """log σ(r_reference + margin - r_sample) of each sample (n,), below 0: how far it stays in the support of
    D.

    `references` (n,) are rewards of chosen responses of D, `samples` (n,) of the policy's responses, to any
    prompts. Raising its mean C lowers rewards that exceed those of chosen responses by more than `margin`,
    where the policy has gone and D has not: a conservative objective model (Trabucco et al., arXiv 2107.06882),
    logistic and with a margin.
    """
    return F.logsigmoid(references + margin - samples)


class MetaUpdate:
    """Updates of one run. `ascent` says how θ moves to θ'. Before a step is applied, θ is restored bit for bit
    from a copy: subtracting what was added would not be exact.

    | ascent       | θ'                                        | g, the gradient for `optimizer`      |
    | ------------ | ----------------------------------------- | ------------------------------------ |
    | none         | θ                                         | ∇L(θ), the vanilla step              |
    | sgd          | θ + η ∇J(θ), Algorithm 1 to the letter    | ∇L(θ')                               |
    | adam         | θ + a step of Adam on J, own moments      | ∇L(θ')                               |
    | shared_adam  | θ + a step of `optimizer` on J, whose     | ∇L(θ')                               |
    |              | moments remember it                       |                                      |
    | joint        | θ                                         | ∇(L - ηJ)(θ)                         |
    | conservative | θ                                         | ∇(L - ηC)(θ), C the contrast         |
    | second_order | θ + η ∇J(θ)                               | (I + η H_J(θ)) ∇L(θ') = ∇_θ L(θ')    |

    Memory beyond a vanilla step: a copy of θ, except where θ' is θ. `adam` adds two copies, its moments;
    `second_order` one, of ∇L(θ'), and the graph of ∇J; `reuse` one, of ∇J.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        optimizer: torch.optim.Optimizer,
        ascent: Ascent,
        rate: float,
        *,
        max_grad_norm: float,
        reuse: bool = False,
    ) -> None:
        """`rate` is η: the ascent's learning rate, or the weight of J or C where θ' is θ. The gradient of a
        step is clipped to `max_grad_norm`; that of the ascent is not. `reuse` keeps ∇J for steps without a
        difference, not with `second_order`: H_J needs its graph at θ."""
        self._parameters = list(parameters)
        self._optimizer = optimizer
        self._ascent = ascent
        self._rate = rate
        self._max_grad_norm = max_grad_norm
        self._own = torch.optim.Adam(self._parameters, lr=rate) if ascent == "adam" else None
        self._reuse = reuse
        self._remembered: list[Tensor] | None = None  # ∇J at an earlier θ

    def step(self, preference: BackwardLoss, difference: Difference | None) -> StepReport:
        """One update of θ by `optimizer`. `difference` is unused where `ascent` is none. Where it is None, the
        remembered ∇J takes its place; without one the step is vanilla."""
        self._optimizer.zero_grad(set_to_none=True)
        value = None
        if self._ascent == "none" or (difference is None and self._remembered is None):
            loss = preference()
        elif self._ascent in ("joint", "conservative"):
            value = self._meta_gradient(difference)
            self._scale_gradients(-self._rate)
            loss = preference()
        else:
            value = self._meta_gradient(difference)
            with self._ascended():
                loss = preference()
            if self._ascent == "second_order" and difference is not None:
                vectors = [_gradient(parameter).clone() for parameter in self._parameters]
                difference.hessian_product(self._parameters, vectors, self._rate)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._optimizer.step()
        return StepReport(loss, value, float(norm), self._optimizer.param_groups[0]["lr"])

    def _meta_gradient(self, difference: Difference | None) -> float | None:
        """Leave ∇J in `.grad`, of this step or remembered. Returns J where it was computed."""
        if difference is None:
            for parameter, gradient in zip(self._parameters, self._remembered or [], strict=True):
                parameter.grad = gradient.clone()
            return None
        value = difference.backward()
        if self._reuse:
            self._remembered = [_gradient(parameter).clone() for parameter in self._parameters]
        return value

    @contextmanager
    def _ascended(self) -> Iterator[None]:
        """Inside the block the parameters are θ', without gradients. After it they are θ, with the gradients
        that were computed inside."""
        original = [parameter.detach().clone() for parameter in self._parameters]
        try:
            self._climb()
            self._optimizer.zero_grad(set_to_none=True)
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters, original, strict=True):
                    parameter.copy_(value)

    def _climb(self) -> None:
        """Move θ along the ∇J in `.grad`."""
        if self._ascent in ("adam", "shared_adam"):
            self._scale_gradients(-1.0)  # optimisers descend
            if self._own is not None:
                self._own.step()
            else:
                with _stepping_at(self._optimizer, self._rate):
                    self._optimizer.step()
            return
        with torch.no_grad():
            for parameter in self._parameters:
                parameter.add_(_gradient(parameter), alpha=self._rate)

    def _scale_gradients(self, factor: float) -> None:
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


@contextmanager
def _stepping_at(optimizer: torch.optim.Optimizer, rate: float) -> Iterator[None]:
    """Inside the block the learning rate is `rate`, and weights do not decay."""
    kept = [{"lr": group["lr"], "weight_decay": group["weight_decay"]} for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update(lr=rate, weight_decay=0.0)
    try:
        yield
    finally:
        for group, own in zip(optimizer.param_groups, kept, strict=True):
            group.update(own)


def _gradient(parameter: Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
