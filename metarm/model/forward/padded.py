"""The route of every other network: its public forward on sequences of similar length, padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from metarm.model.encoding import Encoded
from metarm.model.forward.packing import pooled_position
from metarm.model.forward.prefixes import PrefixStore
from metarm.model.forward.recomputing import own_layers_recomputed


class Padded:
    """Length-sorted batches, right-padded to their longest."""

    name = "padded"
    pads = True
    shares_prompts = False

    def __init__(self, network: PreTrainedModel) -> None:
        self._network: Any = network
        self._pools_last_token = isinstance(getattr(network, "score", None), nn.Module)
        self.one_by_one = False  # for networks whose scores change with padding
        self._pad_id: int | None = network.config.get_text_config().pad_token_id

    def scores(self, samples: list[Encoded], batch_tokens: int, prefixes: PrefixStore | None) -> Tensor:
        del prefixes  # the public forward does not take them
        parts, order = [], []
        for indices in self._batches([len(s.ids) for s in samples], batch_tokens):
            parts.append(self._forward([samples[i] for i in indices]))
            order += indices
        place = torch.empty(len(order), dtype=torch.long)
        place[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[place.to(parts[0].device)]

    def padding_ratio(self, lengths: Sequence[int], batch_tokens: int) -> float:
        """The share of padding among the tokens computed for sequences of these lengths."""
        batches = self._batches(lengths, batch_tokens)
        multiplied = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        return 1 - sum(lengths) / multiplied if multiplied else 0.0

    def _batches(self, lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
        return length_batches(lengths, 1 if self.one_by_one else batch_tokens)

    def recomputing(self) -> AbstractContextManager[None]:
        return own_layers_recomputed(self._network)

    def _forward(self, samples: Sequence[Encoded]) -> Tensor:
        """Scores (n,) of sequences of similar length, right-padded to the longest (n, S)."""
        longest = max(len(s.ids) for s in samples)
        inputs = {
            "input_ids": self._pad([s.ids for s in samples], longest, self._pad_id or 0),
            "attention_mask": self._pad([[1] * len(s.ids) for s in samples], longest, 0),
        }
        if samples[0].type_ids is not None:
            inputs["token_type_ids"] = self._pad([s.type_ids or [] for s in samples], longest, 0)
        if not self._pools_last_token:
            return cast("Tensor", self._network(**inputs).logits)[:, 0].float()
        hidden = self._network.base_model(**inputs, use_cache=False).last_hidden_state  # (n, S, H)
        last = torch.tensor([pooled_position(s.ids, self._pad_id) for s in samples], device=hidden.device)
        pooled = hidden[torch.arange(len(samples), device=hidden.device), last]  # (n, H)
        return cast("Tensor", self._network.score(pooled))[:, 0].float()

    def _pad(self, rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
        full = [[*row, *([fill] * (width - len(row)))] for row in rows]
        return torch.tensor(full, device=self._network.device)


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices grouped by similar length, longest first, so that a group padded to its longest holds
    at most `batch_tokens` tokens (or one sequence)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
