"""Packing: sequences end to end in one batch, without padding. Positions restart in each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from metarm.model.encoding import Encoded


def consecutive(lengths: Sequence[int], batch_tokens: int) -> Iterator[range]:
    """Runs of consecutive indices whose lengths sum to at most `batch_tokens`, or of one index."""
    start = held = 0
    for index, length in enumerate(lengths):
        if index > start and held + length > batch_tokens:
            yield range(start, index)
            start, held = index, 0
        held += length
    if start < len(lengths):
        yield range(start, len(lengths))


def spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The rows [start, end) of each sequence."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [(end - length, end) for length, end in zip(lengths, ends, strict=True)]


def row_of_ids(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(1, T) of the concatenated rows."""
    return torch.tensor([value for row in rows for value in row], device=device).unsqueeze(0)


def pooled_position(ids: Sequence[int], pad_id: int | None) -> int:
    """The position that a causal classifier reads the score of a single sequence from: that of the last
    token other than the padding token (which may also be the end-of-sequence token)."""
    if pad_id is None:
        return len(ids) - 1
    return next((i for i in range(len(ids) - 1, -1, -1) if ids[i] != pad_id), 0)


def segment_ids(samples: Sequence[Encoded]) -> list[list[int]]:
    return [s.type_ids if s.type_ids is not None else [0] * len(s.ids) for s in samples]
