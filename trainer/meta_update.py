"""The paper on one page: losses, and one MetaRM update. Pure: no Redis, no disk, no settings.

Dou et al., "MetaRM: Shifted Distributions Alignment via Meta-Learning" (arXiv 2405.00438).
Notation: θ the reward model's parameters, L the preference loss on n labelled pairs, J the
difference loss on m prompts × k unlabelled responses of the shifted policy, η the ascent rate.
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

# Runs a loss forward and backward, micro-batch by micro-batch: leaves its gradient in `.grad`
# (adding to what is there) and returns its value.
BackwardLoss = Callable[[], float]


class Difference(Protocol):
    """J on one batch of groups; for `conservative` the contrast C, which is raised like J."""

    def backward(self) -> float:
        """Add ∇J to `.grad`; returns J."""

    def hessian_product(self, parameters: Sequence[Parameter], vectors: Sequence[Tensor], scale: float) -> None:
        """Add scale · H_J v to `.grad`, where H_J is J's Hessian by `parameters` at their values, and v
        the `vectors`, one for each of them."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one update saw: the loss, J (or C) before the step (None where it was not computed), ‖g‖ before
    clipping, and the learning rate it took."""

    loss: float
    difference: float | None
    grad_norm: float
    learning_rate: float


def preference_loss(chosen: Tensor, rejected: Tensor, margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The Bradley-Terry loss of each pair (n,): -log σ(d), where d = r_chosen - r_rejected - margin.

    Its mean is the paper's L(θ); `margin` (n,) is TRL's, 0 where unknown. `label_smoothing` ε in [0, .5)
    is the share of labels taken to be the wrong way round, as in conservative DPO (TRL's option of the
    same name): -(1-ε) log σ(d) - ε log σ(-d), least where σ(d) = 1-ε.
    """
    gap = chosen - rejected - margin
    if label_smoothing == 0.0:
        return -F.logsigmoid(gap)
    return -(1.0 - label_smoothing) * F.logsigmoid(gap) - label_smoothing * F.logsigmoid(-gap)


def centering_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_chosen + r_rejected)² of each pair (n,): holds scores around 0, which L leaves free to drift.

    Eisenstein et al., "Helping or Herding?" (arXiv 2312.09244); TRL's `center_rewards_coefficient` weighs
    its mean.
    """
    return (chosen + rejected) ** 2


def difference_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """The difference loss of each prompt (m,): (2/k²) Σ_{i<j} σ(|r_i - r_j|). Its mean is the paper's J(θ).

    `scores` and `mask` are (m, k); a group with fewer than k responses has `mask` False at the end,
    and its own k counts. Each value lies in [(k-1)/2k, (k-1)/k); the gradient is 0 at ties.
    """
    gaps = torch.sigmoid((scores.unsqueeze(2) - scores.unsqueeze(1)).abs())  # (m, k, k)
    pairs = torch.triu(mask.unsqueeze(2) & mask.unsqueeze(1), diagonal=1)  # each unordered pair once
    sizes = mask.sum(dim=1)
    return 2.0 * (gaps * pairs).sum(dim=(1, 2)) / sizes**2


def contrast(references: Tensor, samples: Tensor, margin: float) -> Tensor:
    """How far the policy's samples stay within what D supports, (n,): log σ(r_reference + margin - r_sample).

    `references` (n,) are rewards of chosen responses of D, `samples` (n,) of the policy's, any prompts. Raising
    its mean C lowers rewards beyond `margin` above the chosen, where optimisation has gone and D has not: a
    conservative objective model (Trabucco et al., arXiv 2107.06882), logistic and with a margin. Below 0.
    """
    return F.logsigmoid(references + margin - samples)


class MetaUpdate:
    """Updates of one run. θ is always restored from a copy, bit for bit, before a step is applied:
    subtracting what was added would not be exact. What moves θ to θ' is the `ascent`:

    | ascent       | θ'                                        | g that `optimizer` is given          |
    | ------------ | ----------------------------------------- | ------------------------------------ |
    | none         | θ                                         | ∇L(θ), the vanilla step              |
    | sgd          | θ + η ∇J(θ), Algorithm 1 to the letter    | ∇L(θ')                               |
    | adam         | θ + a step of Adam on J, own moments      | ∇L(θ')                               |
    | shared_adam  | θ + a step of `optimizer` on J, whose     | ∇L(θ')                               |
    |              | moments remember it                       |                                      |
    | joint        | θ                                         | ∇(L - ηJ)(θ)                         |
    | conservative | θ                                         | ∇(L - ηC)(θ), C the contrast         |
    | second_order | θ + η ∇J(θ)                               | (I + η H_J(θ)) ∇L(θ') = ∇_θ L(θ')    |

    Memory beyond a vanilla step's: a copy of θ, none where θ' is θ; `adam` keeps two more, its moments, and
    `second_order` takes one more, of ∇L(θ'), and the graph of ∇J; `reuse` takes one more, of ∇J.
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
        """`rate` is η: the ascent's learning rate, or the weight of J or C where θ' is θ. The gradient of each
        step is clipped to `max_grad_norm`; the ascent's is not. `reuse`: remember ∇J, for steps that are given
        no difference. `second_order` cannot: H_J needs its graph at θ."""
        self._parameters = list(parameters)
        self._optimizer = optimizer
        self._ascent = ascent
        self._rate = rate
        self._max_grad_norm = max_grad_norm
        self._own = torch.optim.Adam(self._parameters, lr=rate) if ascent == "adam" else None
        self._reuse = reuse
        self._remembered: list[Tensor] | None = None  # ∇J at an earlier θ

    def step(self, preference: BackwardLoss, difference: Difference | None) -> StepReport:
        """One update: θ changes, by `optimizer`. `difference` is not asked for where `ascent` is none; where it
        is None, the remembered ∇J stands in for it, and a vanilla step is made where there is none."""
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
        """Leave ∇J in `.grad`, this step's or the remembered one; returns J where it was computed."""
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
        """Be at θ', without gradients, and at θ again after the block; gradients taken in it stay."""
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
        """Move θ along ∇J, which is in `.grad`."""
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
    """The learning rate is `rate`, and nothing decays, inside the block."""
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
