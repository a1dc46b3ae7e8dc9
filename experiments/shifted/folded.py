"""A BERT reward model whose trunk is frozen below its last layer: scores from states computed before.

Only the first token's output of the last layer is read, so attention folds: with q_h the query of head h at
the first token and X (S, H) the states below, the scores are X (W_k,hᵀ q_h), and the attended value is
W_v,h (softmax · X) + b_v,h. Keys and values of the tokens are never computed; X is read twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.shifted.states import FrozenStates, freeze, learning_parts
from metarm.errors import ConfigurationError
from metarm.model.encoding import Encoded
from metarm.model.forward import PrefixStore
from metarm.model.forward.padded import length_batches
from metarm.model.reward_model import RewardModel

BATCH_TOKENS = 4096
TOLERANCE = 0.02  # of the scores' standard deviation, with states in float16

Weights = dict[str, Tensor]


class FoldedModel(RewardModel):
    """Scores of texts whose states are known; any other raises KeyError."""

    def __init__(self, model: RewardModel, states: FrozenStates) -> None:
        """Shares the network with `model`, and freezes it except the learning parts (`states.freeze`)."""
        super().__init__(model.network, model.encoder)
        freeze(self.network)
        self._layer, self._pooler, self._head = (part for part in learning_parts(self.network))
        self._states = states

    def scores(
        self,
        samples: Sequence[Encoded],
        batch_tokens: int = BATCH_TOKENS,
        prefixes: PrefixStore | None = None,
    ) -> Tensor:
        del prefixes  # no part of a bidirectional model can be computed beforehand
        layer: Any = self._layer
        attention = layer.attention.self
        split = (attention.num_attention_heads, attention.attention_head_size, -1)  # (heads, width, H)
        first = self._states.first(samples)  # (n, H)
        query = attention.query(first).view(len(samples), *split[:2])  # (n, heads, width)
        folded = torch.einsum("nhw,hwf->nhf", query, attention.key.weight.view(split)) * attention.scaling
        pooled = self._attend(samples, folded, batch_tokens)  # (n, heads, H)
        value = torch.einsum("nhf,hwf->nhw", pooled, attention.value.weight.view(split)).flatten(1)
        hidden = layer.attention.output(value + attention.value.bias, first)
        hidden = layer.output(layer.intermediate(hidden), hidden)
        scores: Tensor = self._head(self._pooler(hidden.unsqueeze(1)))
        return scores[:, 0]

    def weights(self) -> Weights:
        """A copy of the learning parameters."""
        return {name: p.detach().clone() for name, p in self.network.named_parameters() if p.requires_grad}

    def take(self, weights: Weights) -> None:
        """Set the learning parameters to `weights`, which must hold all of them."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(weights[name])

    def _attend(self, samples: Sequence[Encoded], folded: Tensor, batch_tokens: int) -> Tensor:
        """Each head's weighted mean of a sequence's states (n, heads, H); `folded` (n, heads, H)."""
        parts, order = [], []
        for indices in length_batches([len(sample.ids) for sample in samples], batch_tokens):
            states, mask = self._states.padded([samples[index] for index in indices])
            logits = folded[indices] @ states.transpose(1, 2)  # (b, heads, S)
            shares = logits.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(dim=-1)
            parts.append(shares @ states)
            order += indices
        return torch.cat(parts)[torch.tensor(order).argsort()]


@torch.inference_mode()
def check(model: FoldedModel, samples: Sequence[Encoded]) -> float:
    """The largest difference between the folded scores and the network's own public forward of each sample
    alone, in standard deviations of these. Raises ConfigurationError where it exceeds TOLERANCE."""
    own = torch.cat([_public(model, sample) for sample in samples])
    difference = float((model.scores(samples) - own).abs().max() / own.std())
    if not difference <= TOLERANCE:
        raise ConfigurationError(
            f"folded scores differ from the network's own by {difference:.1e} of their spread"
        )
    return difference


def average(one: Weights, other: Weights) -> Weights:
    return {name: (weight + other[name]) / 2 for name, weight in one.items()}


def _public(model: FoldedModel, sample: Encoded) -> Tensor:
    inputs = {"input_ids": torch.tensor([sample.ids])}
    if sample.type_ids is not None:
        inputs["token_type_ids"] = torch.tensor([sample.type_ids])
    logits: Tensor = model.network(**inputs).logits
    return logits[:, 0]
