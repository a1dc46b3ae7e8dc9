"""Packed forward of the Llama family: causal attention inside each sequence, shared prompts computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForSequenceClassification
from transformers.models.mistral.modeling_mistral import MistralForSequenceClassification
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForSequenceClassification
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForSequenceClassification

from metarm.model.encoding import Encoded
from metarm.model.forward.packing import pooled_position, row_of_ids, spans
from metarm.model.forward.prefixes import KeyValues, Prefix, PrefixStore
from metarm.model.forward.recomputing import LayerRunner

# rotations that depend only on the position of a token, not on the length of its batch
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
MIN_PREFIX_TOKENS = 16  # sharing a shorter prompt costs more attention calls than it saves


@dataclass(slots=True)
class Segment:
    """Tokens that run together: a shared prompt, the rest of a sequence `after` one, or a whole sequence.

    `sample` is the index of the sample whose score is read from the last token; None for a prompt.
    """

    ids: Sequence[int]
    after: Prefix | None
    sample: int | None


@dataclass(slots=True)
class Batch:
    """The segments of one forward, and the prompts among them that a later forward needs."""

    segments: list[Segment] = field(default_factory=list)
    keep: set[Prefix] = field(default_factory=set)
    tokens: int = 0

    def add(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.tokens += len(segment.ids)


class PackedDecoder:
    """Linear layers and norms run on all tokens (T) at once, attention segment by segment. The last layer
    computes queries and everything after them for the pooled tokens (n) only.

    The keys and values of a prompt are computed once for the responses of a call that share it and, with
    a `PrefixStore`, for later calls.
    """

    name = "decoder"
    pads = False
    shares_prompts = True

    @staticmethod
    def fits(network: PreTrainedModel, max_tokens: int) -> bool:
        families = (
            LlamaForSequenceClassification,
            MistralForSequenceClassification,
            Qwen2ForSequenceClassification,
            Qwen3ForSequenceClassification,
        )
        config = network.config
        return type(network) in families and _reaches(config, max_tokens) and _plain_rope(config)

    def __init__(self, network: PreTrainedModel) -> None:
        self._network: Any = network
        self._base: Any = network.base_model
        self._layers = LayerRunner()
        self._pad_id: int | None = network.config.get_text_config().pad_token_id

    def scores(self, samples: list[Encoded], batch_tokens: int, prefixes: PrefixStore | None) -> Tensor:
        order: list[int] = []
        parts = []
        known: dict[Prefix, KeyValues] = {}
        for batch in self._batches(samples, batch_tokens, prefixes, known):
            parts.append(self._forward(batch, known, prefixes))
            order += [segment.sample for segment in batch.segments if segment.sample is not None]
        place = torch.empty(len(order), dtype=torch.long)
        place[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[place.to(parts[0].device)]

    def recomputing(self) -> AbstractContextManager[None]:
        return self._layers.recomputing()

    def _batches(
        self,
        samples: Sequence[Encoded],
        batch_tokens: int,
        store: PrefixStore | None,
        known: dict[Prefix, KeyValues],
    ) -> Iterator[Batch]:
        """Batches of at most `batch_tokens` tokens (or one segment and its prompt). Samples of a prompt are
        together. A prompt found in `store` goes into `known`; any other precedes its first response."""
        sequences = [s.ids[: pooled_position(s.ids, self._pad_id) + 1] for s in samples]
        prompts = [_prompt(ids, s.prompt_tokens) for ids, s in zip(sequences, samples, strict=True)]
        uses = Counter(prompt for prompt in prompts if prompt is not None)
        first = {prompt: index for index, prompt in reversed(list(enumerate(prompts)))}
        batch = Batch()
        in_batch: set[Prefix] = set()
        for index in sorted(range(len(samples)), key=lambda i: (first[prompts[i]] if prompts[i] else i, i)):
            ids, prompt = sequences[index], prompts[index]
            if prompt is not None and prompt not in known and prompt not in in_batch:
                found = store.get(prompt) if store else None
                if found is not None:
                    known[prompt] = found
                elif uses[prompt] == 1 and store is None:
                    prompt = None  # no other response shares it
            cost = len(ids) - (len(prompt) if prompt in known or prompt in in_batch else 0)
            if batch.segments and batch.tokens + cost > batch_tokens:
                batch.keep |= in_batch & {prompt}
                yield batch
                batch, in_batch = Batch(), set()
            if prompt is not None and prompt not in known and prompt not in in_batch:
                batch.add(Segment(prompt, None, None))
                in_batch.add(prompt)
            batch.add(Segment(ids[len(prompt) if prompt else 0 :], prompt, index))
        if batch.segments:
            yield batch

    def _forward(self, batch: Batch, known: dict[Prefix, KeyValues], store: PrefixStore | None) -> Tensor:
        """Scores (n,) of the batch's samples, in the order of its segments. Adds its prompts to `store`, and
        those that a later batch needs to `known`."""
        device = self._network.device
        segments = batch.segments
        rows = spans([len(segment.ids) for segment in segments])
        hidden = self._base.embed_tokens(row_of_ids([s.ids for s in segments], device)[0])  # (T, H)
        starts = [len(s.after) if s.after else 0 for s in segments]
        positions = row_of_ids(
            [range(b, b + len(s.ids)) for b, s in zip(starts, segments, strict=True)], device
        )
        cos, sin = (part[0] for part in self._base.rotary_emb(hidden[None], positions))  # (T, head width)
        attention = _Attention(segments, rows, known)
        pooled = [
            end - 1 for segment, (_, end) in zip(segments, rows, strict=True) if segment.sample is not None
        ]
        query_at = torch.tensor(pooled, device=device)
        layers = self._base.layers[: self._network.config.num_hidden_layers]
        kept: dict[Prefix, KeyValues] = {p: [] for p in (attention.prompts if store else batch.keep)}
        for number, layer in enumerate(layers):
            last = number == len(layers) - 1
            hidden, keys, values = self._layers.run(
                _layer, layer, hidden, query_at if last else None, (cos, sin), attention, number
            )
            for prompt, saved in kept.items():
                start, end = attention.prompts[prompt]
                saved.append((keys[:, start:end], values[:, start:end]))
        for prompt, saved in kept.items():
            if prompt in batch.keep:
                known[prompt] = saved
            if store:
                store.put(prompt, [(keys.clone(), values.clone()) for keys, values in saved])
        return cast("Tensor", self._network.score(self._base.norm(hidden)))[:, 0].float()


class _Attention:
    """Attention in one batch: each segment attends to itself, causally, and to the prompt before it."""

    def __init__(
        self, segments: Sequence[Segment], rows: list[tuple[int, int]], known: dict[Prefix, KeyValues]
    ):
        self._segments = list(zip(segments, rows, strict=True))
        self._known = known
        self._masks: dict[tuple[int, int], Tensor] = {}
        self.prompts: dict[Prefix, tuple[int, int]] = {
            cast("Prefix", segment.ids): row for segment, row in self._segments if segment.sample is None
        }

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, layer: int, scale: float, pooled: bool
    ) -> Tensor:
        """query (heads, T, width), or (heads, n, width) of the `pooled` tokens; keys and values (key heads,
        T, width) → (T or n, heads · width)."""
        outputs = []
        position = 0
        for segment, (start, end) in self._segments:
            if pooled and segment.sample is None:
                continue
            queries = slice(position, position + 1) if pooled else slice(start, end)
            position += 1
            key, value, before = keys[:, start:end], values[:, start:end], 0
            if segment.after is not None:
                past_key, past_value = self._past(segment.after, keys, values, layer)
                before = past_key.shape[1]
                key, value = torch.cat([past_key, key], dim=1), torch.cat([past_value, value], dim=1)
            mask = self._mask(end - start, before, key.device) if before and not pooled else None
            attended = F.scaled_dot_product_attention(
                query[None, :, queries],
                key[None],
                value[None],
                attn_mask=mask,
                is_causal=not pooled and before == 0,
                scale=scale,
                enable_gqa=query.shape[0] != keys.shape[0],
            )
            outputs.append(attended)
        return torch.cat(outputs, dim=2)[0].transpose(0, 1).flatten(1)

    def _past(self, prompt: Prefix, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if prompt not in self.prompts:  # checked first: a recomputed layer must use the same tensors
            return self._known[prompt][layer]
        start, end = self.prompts[prompt]
        return keys[:, start:end], values[:, start:end]

    def _mask(self, tokens: int, before: int, device: torch.device) -> Tensor:
        """(tokens, before + tokens): token i attends to the prompt and to the tokens up to itself."""
        if (tokens, before) not in self._masks:
            shape = (tokens, before + tokens)
            self._masks[tokens, before] = torch.ones(shape, dtype=torch.bool, device=device).tril(before)
        return self._masks[tokens, before]


def _layer(
    layer: Any,
    hidden: Tensor,
    query_at: Tensor | None,
    rotation: tuple[Tensor, Tensor],
    attention: _Attention,
    number: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer on hidden (T, H): the hidden states of all tokens, or of those at `query_at` (n,), and the keys
    and values (key heads, T, width) of all."""
    own = layer.self_attn
    normed = layer.input_layernorm(hidden)
    cos, sin = rotation
    keys = _rotate(_heads(own, "k", normed), cos, sin)
    values = own.v_proj(normed).view(len(normed), -1, own.head_dim).transpose(0, 1)
    if query_at is not None:
        hidden, normed, cos, sin = hidden[query_at], normed[query_at], cos[query_at], sin[query_at]
    query = _rotate(_heads(own, "q", normed), cos, sin)
    attended = attention.attend(query, keys, values, number, own.scaling, pooled=query_at is not None)
    hidden = hidden + own.o_proj(attended)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), keys, values


def _heads(attention: Any, kind: str, normed: Tensor) -> Tensor:
    """The queries ("q") or keys ("k") of (T, H) as (heads, T, width), normalised if the model does so."""
    split = getattr(attention, f"{kind}_proj")(normed).view(len(normed), -1, attention.head_dim)
    norm = getattr(attention, f"{kind}_norm", None)
    return cast("Tensor", split if norm is None else norm(split)).transpose(0, 1)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of (heads, T, width), halves paired as in Llama."""
    left, right = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-right, left], dim=-1) * sin


def _prompt(ids: Sequence[int], prompt_tokens: int) -> Prefix | None:
    """The part of a sequence that can be shared, without its last token: the score is read from that."""
    length = min(prompt_tokens, len(ids) - 1)
    return tuple(ids[:length]) if length >= MIN_PREFIX_TOKENS else None


def _reaches(config: Any, max_tokens: int) -> bool:
    """Whether every layer attends over `max_tokens`; a shorter sliding window is not supported."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    return window is None or window >= max_tokens or "sliding_attention" not in kinds


def _plain_rope(config: Any) -> bool:
    return (config.rope_parameters or {}).get("rope_type", "default") in ROPE_TYPES
