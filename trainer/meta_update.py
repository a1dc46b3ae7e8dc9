"""The paper on one page: losses, and one MetaRM update. Pure: no Redis, no disk, no settings.

Dou et al., "MetaRM: Shifted Distributions Alignment via Meta-Learning" (arXiv 2405.00438).
Notation: θ the reward model's parameters, L the preference loss on n labelled pairs, J the
difference loss on m prompts × k unlabelled responses of the shifted policy, η the ascent rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

# Runs a loss forward and backward, micro-batch by micro-batch: leaves its gradient in `.grad`
# (adding to what is there) and returns its value.
BackwardLoss = Callable[[], float]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one update saw: the loss, J before the ascent (None without one), and ‖g‖ before clipping."""

    loss: float
    difference: float | None
    grad_norm: float


def preference_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """The Bradley-Terry loss of each pair (n,): -log σ(r_chosen - r_rejected - margin).

    Its mean is the paper's L(θ); `margin` (n,) is TRL's, 0 where unknown.
    """
    return -F.logsigmoid(chosen - rejected - margin)


def difference_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """The difference loss of each prompt (m,): (2/k²) Σ_{i<j} σ(|r_i - r_j|). Its mean is the paper's J(θ).

    `scores` and `mask` are (m, k); a group with fewer than k responses has `mask` False at the end,
    and its own k counts. Each value lies in [(k-1)/2k, (k-1)/k); the gradient is 0 at ties.
    """
    gaps = torch.sigmoid((scores.unsqueeze(2) - scores.unsqueeze(1)).abs())  # (m, k, k)
    pairs = torch.triu(mask.unsqueeze(2) & mask.unsqueeze(1), diagonal=1)  # each unordered pair once
    sizes = mask.sum(dim=1)
    return 2.0 * (gaps * pairs).sum(dim=(1, 2)) / sizes**2


def update(
    parameters: Sequence[Parameter],
    optimizer: torch.optim.Optimizer,
    preference: BackwardLoss,
    difference: BackwardLoss | None,
    *,
    ascent_rate: float,
    max_grad_norm: float,
) -> StepReport:
    """One step of Algorithm 1, first order; without `difference`, one vanilla step.

        θ' = θ + η ∇J(θ)          the ascent, plain gradient (Eq. 1-2)
        g  = ∇L(θ')               at the ascended point (Eq. 3)
        θ ← θ - α g               applied to the original θ, by `optimizer` (Eq. 4)

    θ is restored from a copy, bit for bit: subtracting what was added would not be exact.
    """
    optimizer.zero_grad(set_to_none=True)
    value = None
    original: list[Tensor] = []
    if difference is not None:
        value = difference()
        original = _ascend(parameters, ascent_rate)
        optimizer.zero_grad(set_to_none=True)
    loss = preference()
    if original:
        _restore(parameters, original)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    return StepReport(loss, value, float(norm))


@torch.no_grad()
def _ascend(parameters: Sequence[Parameter], rate: float) -> list[Tensor]:
    """Move every parameter along its gradient; return copies of what they were."""
    original = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.add_(parameter.grad, alpha=rate)
    return original


@torch.no_grad()
def _restore(parameters: Sequence[Parameter], original: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, original, strict=True):
        parameter.copy_(value)
