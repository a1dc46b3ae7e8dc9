"""Packed forward of the BERT and RoBERTa families: every token attends to its whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertForSequenceClassification
from transformers.models.roberta.modeling_roberta import RobertaForSequenceClassification
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaForSequenceClassification

from metarm.model.encoding import Encoded
from metarm.model.forward.packing import consecutive, row_of_ids, segment_ids, spans
from metarm.model.forward.prefixes import PrefixStore
from metarm.model.forward.recomputing import LayerRunner

Span = tuple[int, int]


class PackedEncoder:
    """Embeddings, linear layers and norms run on all tokens (T) at once, attention sequence by sequence. The
    last layer computes queries and everything after them for the first tokens (n) only."""

    name = "encoder"
    pads = False
    shares_prompts = False

    @staticmethod
    def fits(network: PreTrainedModel, max_tokens: int) -> bool:
        del max_tokens  # attention covers every length
        families = (
            BertForSequenceClassification,
            RobertaForSequenceClassification,
            XLMRobertaForSequenceClassification,
        )
        config = network.config
        return type(network) in families and not (config.is_decoder or config.add_cross_attention)

    def __init__(self, network: PreTrainedModel) -> None:
        self._network: Any = network
        self._base: Any = network.base_model
        self._layers = LayerRunner()
        # RoBERTa numbers positions from its padding id; padding tokens have that id as their position
        self._padding_id: int | None = getattr(self._base.embeddings, "padding_idx", None)

    def scores(self, samples: list[Encoded], batch_tokens: int, prefixes: PrefixStore | None) -> Tensor:
        del prefixes  # every token attends to the whole sequence: no prefix can be reused
        runs = consecutive([len(s.ids) for s in samples], batch_tokens)
        return torch.cat([self._forward(samples[run.start : run.stop]) for run in runs])

    def recomputing(self) -> AbstractContextManager[None]:
        return self._layers.recomputing()

    def _forward(self, samples: Sequence[Encoded]) -> Tensor:
        """Scores (n,) of one packed batch."""
        device = self._network.device
        rows = spans([len(s.ids) for s in samples])
        hidden = self._base.embeddings(
            input_ids=row_of_ids([s.ids for s in samples], device),
            position_ids=row_of_ids([self._positions(s.ids) for s in samples], device),
            token_type_ids=row_of_ids(segment_ids(samples), device),
        ).squeeze(0)  # (T, H)
        *layers, last = self._base.encoder.layer
        for layer in layers:
            hidden = self._layers.run(_layer, layer, hidden, hidden, rows)
        first = torch.tensor([start for start, _ in rows], device=device)
        pooled = self._layers.run(_layer, last, hidden, hidden[first], rows)  # (n, H)
        if getattr(self._base, "pooler", None) is not None:
            pooled = self._base.pooler(pooled.unsqueeze(1))
        else:
            pooled = pooled.unsqueeze(1)  # the head selects the first token
        return cast("Tensor", self._network.classifier(pooled))[:, 0].float()

    def _positions(self, ids: Sequence[int]) -> Sequence[int]:
        padding = self._padding_id
        if padding is None:
            return range(len(ids))
        if padding not in ids:
            return range(padding + 1, padding + 1 + len(ids))
        seen, positions = padding, []
        for token in ids:
            seen += token != padding
            positions.append(padding if token == padding else seen)
        return positions


def _layer(layer: Any, hidden: Tensor, query_hidden: Tensor, rows: Sequence[Span]) -> Tensor:
    """One transformer layer for the tokens `query_hidden`, all of `hidden` (T, H), or one of each sequence (n,
    H)."""
    attended = _attend(layer.attention.self, hidden, query_hidden, rows)
    hidden = layer.attention.output(attended, query_hidden)
    return cast("Tensor", layer.output(layer.intermediate(hidden), hidden))


def _attend(attention: Any, hidden: Tensor, query_hidden: Tensor, rows: Sequence[Span]) -> Tensor:
    """Attention of the tokens `query_hidden` over the sequence of each; one row for each of them."""
    heads, width = attention.num_attention_heads, attention.attention_head_size
    query = attention.query(query_hidden).view(-1, heads, width).transpose(0, 1)  # (heads, T or n, width)
    key = attention.key(hidden).view(-1, heads, width).transpose(0, 1)
    value = attention.value(hidden).view(-1, heads, width).transpose(0, 1)
    first_only = query_hidden is not hidden
    outputs = []
    for number, (start, end) in enumerate(rows):
        queries = slice(number, number + 1) if first_only else slice(start, end)
        outputs.append(
            F.scaled_dot_product_attention(
                query[None, :, queries],
                key[None, :, start:end],
                value[None, :, start:end],
                scale=attention.scaling,
            )
        )
    return torch.cat(outputs, dim=2)[0].transpose(0, 1).reshape(-1, heads * width)
