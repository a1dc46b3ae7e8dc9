"""Preferences and sample groups: encoded, drawn into batches by a seed, and run in micro-batches."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from metarm.errors import TrainingError
from metarm.model.encoding import Encoded, Encoder
from metarm.model.reward_model import RewardModel
from metarm.records import Preference, SampleGroup
from trainer.meta_update import centering_loss, contrast, difference_loss, preference_loss

log = logging.getLogger(__name__)
Item = TypeVar("Item")


class HasTokens(Protocol):
    """An item of a micro-batch; micro-batches are bounded by their tokens."""

    @property
    def tokens(self) -> int: ...


Load = TypeVar("Load", bound=HasTokens)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    chosen: Encoded
    rejected: Encoded
    margin: float

    @property
    def tokens(self) -> int:
        return len(self.chosen.ids) + len(self.rejected.ids)


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """The responses to one prompt. `id` names the group in errors."""

    id: str
    responses: list[Encoded]

    @property
    def tokens(self) -> int:
        return sum(len(response.ids) for response in self.responses)


def encode_pairs(encoder: Encoder, preferences: Sequence[Preference]) -> list[EncodedPair]:
    encoded = encoder.encode([(p.prompt, (p.chosen, p.rejected)) for p in preferences])
    return [
        EncodedPair(chosen, rejected, preference.margin)
        for (chosen, rejected), preference in zip(encoded, preferences, strict=True)
    ]


def warn_of_cut(what: str, pairs: Sequence[EncodedPair], limit: int) -> None:
    """Log what the limit of tokens costs these pairs, if anything."""
    if (cut := cut_of(pairs, limit)) is not None:
        log.warning("%s: %s", what, cut)


def cut_of(pairs: Sequence[EncodedPair], limit: int) -> str | None:
    """What the limit of tokens costs these pairs, for people; None if nothing."""
    cut = sum(pair.chosen.truncated or pair.rejected.truncated for pair in pairs)
    equal = sum(pair.chosen == pair.rejected for pair in pairs)
    parts = [
        f"{cut} of {len(pairs)} pairs lose tokens to the limit of {limit}" if cut else "",
        f"{equal} of {len(pairs)} pairs have the same tokens on both sides, and teach nothing" if equal else "",
    ]
    return "; ".join(filter(None, parts)) or None


def encode_groups(encoder: Encoder, groups: Sequence[SampleGroup]) -> list[EncodedGroup]:
    encoded = encoder.encode([(group.prompt, group.responses) for group in groups])
    return [EncodedGroup(group.id, responses) for group, responses in zip(groups, encoded, strict=True)]


def draw(items: Sequence[Item], size: int, rng: random.Random) -> Iterator[list[Item]]:
    """Endless batches of `size`. Each pass gives every item once; a batch may span two passes."""
    waiting: list[Item] = []
    while True:
        while len(waiting) < size:
            waiting += rng.sample(items, len(items))
        yield waiting[:size]
        waiting = waiting[size:]


def backward_preference(
    model: RewardModel,
    pairs: Sequence[EncodedPair],
    micro_tokens: int,
    *,
    label_smoothing: float = 0.0,
    center_rewards_coefficient: float = 0.0,
) -> float:
    """Add ∇L of the batch to `.grad`, micro-batch by micro-batch. Returns L, the mean over pairs, which
    includes the weighted centring loss. Raises TrainingError for a loss that is not finite."""
    total = 0.0
    for part in _micro_batches(pairs, micro_tokens):
        scores = model.scores([s for pair in part for s in (pair.chosen, pair.rejected)])  # (2p,)
        chosen, rejected = scores[0::2], scores[1::2]
        margin = torch.tensor([pair.margin for pair in part], device=scores.device)
        losses = preference_loss(chosen, rejected, margin, label_smoothing)
        if center_rewards_coefficient:
            losses = losses + center_rewards_coefficient * centering_loss(chosen, rejected)
        loss = losses.sum() / len(pairs)
        _backward(loss, "the preference loss")
        total += loss.item()
    return total


class MetaObjective:
    """A twice differentiable function of θ on groups of policy samples, as a sum over micro-batches."""

    def backward(self) -> float:
        """Add the gradient to `.grad`, and return the value. Raises TrainingError that names the groups with
        non-finite scores."""
        total = 0.0
        for value in self._values():
            value.backward()  # type: ignore[no-untyped-call]
            total += value.item()
        return total

    def hessian_product(self, parameters: Sequence[Parameter], vectors: Sequence[Tensor], scale: float) -> None:
        """Add scale · H v to `.grad`, exactly: the gradient of (gradient · v)."""
        with sdpa_kernel(SDPBackend.MATH):  # the other backends have no second derivative
            for value in self._values():
                gradients = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
                products = [(g * v).sum() for g, v in zip(gradients, vectors, strict=True)]
                along = torch.stack(products).sum()
                torch.autograd.backward(scale * along, inputs=list(parameters))

    def _values(self) -> Iterator[Tensor]:
        """The part of each micro-batch."""
        raise NotImplementedError


class GroupDifference(MetaObjective):
    """J of a batch of groups: the mean over prompts."""

    def __init__(self, model: RewardModel, groups: Sequence[EncodedGroup], k: int, micro_tokens: int) -> None:
        """Only the first `k` responses of a group are used."""
        self._model = model
        self._groups = [EncodedGroup(group.id, group.responses[:k]) for group in groups]
        self._micro_tokens = micro_tokens

    def _values(self) -> Iterator[Tensor]:
        for part in _micro_batches(self._groups, self._micro_tokens):
            scores, mask = _grid(self._model.scores([s for group in part for s in group.responses]), part)
            _refuse_non_finite(scores, [group.id for group in part])
            yield difference_loss(scores, mask).sum() / len(self._groups)


class GroupContrast(MetaObjective):
    """C of a batch of groups: the mean contrast of a policy sample with a chosen response of D."""

    def __init__(
        self,
        model: RewardModel,
        groups: Sequence[EncodedGroup],
        references: Iterator[Encoded],
        margin: float,
        k: int,
        micro_tokens: int,
    ) -> None:
        """Only the first `k` responses of a group are used; each is compared with the next of `references`."""
        self._model = model
        self._margin = margin
        self._matches = [
            _Match(group.id, next(references), response) for group in groups for response in group.responses[:k]
        ]
        self._micro_tokens = micro_tokens

    def _values(self) -> Iterator[Tensor]:
        for part in _micro_batches(self._matches, self._micro_tokens):
            scores = self._model.scores([s for match in part for s in (match.reference, match.sample)])
            _refuse_non_finite(scores.view(-1, 2), [match.group for match in part])
            if not math.isfinite(self._margin):
                raise TrainingError("the model to adapt gives preferences scores that are not finite")
            yield contrast(scores[0::2], scores[1::2], self._margin).sum() / len(self._matches)


@dataclass(frozen=True, slots=True)
class _Match:
    """A policy sample of a group, and the response of D that it is compared with."""

    group: str
    reference: Encoded
    sample: Encoded

    @property
    def tokens(self) -> int:
        return len(self.reference.ids) + len(self.sample.ids)


def _refuse_non_finite(rows: Tensor, groups: Sequence[str]) -> None:
    """Raise TrainingError that names the groups with a non-finite score in their row."""
    wrong = [g for g, row in zip(groups, rows, strict=True) if not bool(row.isfinite().all())]
    if wrong:
        names = ", ".join(list(dict.fromkeys(wrong))[:5])
        raise TrainingError(f"scores that are not finite, in the groups {names}")


def _grid(scores: Tensor, groups: Sequence[EncodedGroup]) -> tuple[Tensor, Tensor]:
    """Flat scores (n,) → scores (m, k), padded with 0 at the end of shorter groups, and their mask (m, k)."""
    sizes = [len(group.responses) for group in groups]
    rows = torch.split(scores, sizes)
    mask = torch.arange(max(sizes), device=scores.device) < torch.tensor(sizes, device=scores.device)[:, None]
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), mask


def _micro_batches(items: Sequence[Load], micro_tokens: int) -> Iterator[list[Load]]:
    part: list[Load] = []
    held = 0
    for item in items:
        if part and held + item.tokens > micro_tokens:
            yield part
            part, held = [], 0
        part.append(item)
        held += item.tokens
    if part:
        yield part


def _backward(loss: Tensor, what: str) -> None:
    if not math.isfinite(loss.item()):
        raise TrainingError(f"{what} is not a finite number")
    loss.backward()  # type: ignore[no-untyped-call]
