"""Preferences and sample groups → what an update needs: encoded, drawn by seed, run in micro-batches."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from metarm.encoding import Encoded, Encoder
from metarm.errors import TrainingError
from metarm.model import RewardModel
from metarm.records import Preference, SampleGroup
from trainer.meta_update import difference_loss, preference_loss

Item = TypeVar("Item")


class Costly(Protocol):
    """What a micro-batch is filled by: its tokens."""

    @property
    def tokens(self) -> int: ...


Load = TypeVar("Load", bound=Costly)


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
    """One prompt's responses; `id` names the group in errors."""

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


def encode_groups(encoder: Encoder, groups: Sequence[SampleGroup]) -> list[EncodedGroup]:
    encoded = encoder.encode([(group.prompt, group.responses) for group in groups])
    return [EncodedGroup(group.id, responses) for group, responses in zip(groups, encoded, strict=True)]


def draw(items: Sequence[Item], size: int, rng: random.Random) -> Iterator[list[Item]]:
    """Batches of `size`, for ever: every item once before any comes again (the last of a pass may
    borrow from the next)."""
    waiting: list[Item] = []
    while True:
        while len(waiting) < size:
            waiting += rng.sample(items, len(items))
        yield waiting[:size]
        waiting = waiting[size:]


def backward_preference(model: RewardModel, pairs: Sequence[EncodedPair], micro_tokens: int) -> float:
    """Add ∇L of the batch to `.grad`, micro-batch by micro-batch, and return L (the mean over pairs)."""
    total = 0.0
    for part in _micro_batches(pairs, micro_tokens):
        scores = model.scores([s for pair in part for s in (pair.chosen, pair.rejected)])  # (2p,)
        margin = torch.tensor([pair.margin for pair in part], device=scores.device)
        loss = preference_loss(scores[0::2], scores[1::2], margin).sum() / len(pairs)
        _backward(loss, "the preference loss")
        total += loss.item()
    return total


def backward_difference(model: RewardModel, groups: Sequence[EncodedGroup], k: int, micro_tokens: int) -> float:
    """Add ∇J of the batch to `.grad`, micro-batch by micro-batch, and return J (the mean over prompts).

    Groups of more than `k` responses use their first k.
    """
    cut = [EncodedGroup(group.id, group.responses[:k]) for group in groups]
    total = 0.0
    for part in _micro_batches(cut, micro_tokens):
        scores, mask = _grid(model.scores([s for group in part for s in group.responses]), part)
        value = difference_loss(scores, mask).sum() / len(groups)
        _backward(value, f"the difference loss of {', '.join(group.id for group in part[:5])}")
        total += value.item()
    return total


def _grid(scores: Tensor, groups: Sequence[EncodedGroup]) -> tuple[Tensor, Tensor]:
    """Flat scores → (m, k) and its mask, ragged groups filled with 0 at the end."""
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
