"""Tiny random networks of every family, without a checkpoint, and their plain scores by transformers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
    XLNetConfig,
)

from metarm.model.encoding import Encoded

VOCABULARY = 120
LONGEST = 90
PAD = 3  # unless a network says otherwise

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "num_labels": 1,
    "pad_token_id": PAD,
}
CAUSAL: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
NARROW: dict[str, Any] = {"vocab_size": VOCABULARY, "num_labels": 1, "pad_token_id": PAD}


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return CAUSAL | {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **parameters}}


LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CONFIGS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SIZES),
    "bert-gelu-new": BertConfig(**SIZES, hidden_act="gelu_new"),
    "bert-relu": BertConfig(**SIZES, hidden_act="relu"),
    "bert-one-layer": BertConfig(**SIZES | {"num_hidden_layers": 1}),
    "bert-causal": BertConfig(**SIZES, is_decoder=True),
    "roberta": RobertaConfig(**SIZES, type_vocab_size=2),
    "xlm-roberta": XLMRobertaConfig(**SIZES, type_vocab_size=2),
    "llama": LlamaConfig(**CAUSAL),
    "llama-one-layer": LlamaConfig(**CAUSAL | {"num_hidden_layers": 1}),
    "llama-bias": LlamaConfig(**CAUSAL, attention_bias=True, mlp_bias=True),
    "llama-as-many-key-heads": LlamaConfig(**CAUSAL | {"num_key_value_heads": 4}),
    "llama-pad-is-eos": LlamaConfig(**CAUSAL | {"pad_token_id": 2}),
    "llama-no-pad": LlamaConfig(**CAUSAL | {"pad_token_id": None}),
    "llama-rope-linear": LlamaConfig(**rope("linear", factor=4.0)),
    "llama-rope-llama3": LlamaConfig(**rope("llama3", **LLAMA3_ROPE)),
    "llama-rope-yarn": LlamaConfig(**rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama-rope-dynamic": LlamaConfig(**rope("dynamic", factor=2.0)),
    "mistral": MistralConfig(**CAUSAL, sliding_window=None),
    "mistral-wide-window": MistralConfig(**CAUSAL, sliding_window=LONGEST),
    "mistral-short-window": MistralConfig(**CAUSAL, sliding_window=8),
    "qwen2": Qwen2Config(**CAUSAL),
    "qwen2-short-window": Qwen2Config(**CAUSAL, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen2-window-not-in-use": Qwen2Config(**CAUSAL, use_sliding_window=False, sliding_window=8),
    "qwen3": Qwen3Config(**CAUSAL, head_dim=16),
    "distilbert": DistilBertConfig(**NARROW, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "gpt2": GPT2Config(
        **NARROW, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "modernbert": ModernBertConfig(
        **SIZES, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, local_attention=16
    ),
    "deberta-v2": DebertaV2Config(**SIZES, type_vocab_size=2),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "bert-few-positions": BertConfig(**SIZES | {"max_position_embeddings": 24}),
    "mistral-24-window": MistralConfig(**CAUSAL, sliding_window=24),
    # reads its score at the last position, even if it is padding
    "xlnet": XLNetConfig(**NARROW, d_model=32, n_layer=2, n_head=4, d_inner=64),
}


def make_network(kind: str, seed: int = 0) -> PreTrainedModel:
    """A network with random weights, large enough for scores that differ."""
    torch.manual_seed(seed)
    network = AutoModelForSequenceClassification.from_config(CONFIGS[kind])
    assert isinstance(network, PreTrainedModel)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
            elif name.endswith("bias"):  # initially 0, so that an omitted bias would go unnoticed
                parameter.normal_(std=0.2)
    network.eval()
    return network


def random_ids(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(length)]


def plain_score(network: PreTrainedModel, sample: Encoded) -> Tensor:
    """The score that transformers itself gives one sequence alone, without padding."""
    inputs = {
        "input_ids": torch.tensor([sample.ids]),
        "attention_mask": torch.ones(1, len(sample.ids), dtype=torch.long),
    }
    if sample.type_ids is not None:
        inputs["token_type_ids"] = torch.tensor([sample.type_ids])
    logits: Tensor = network(**inputs).logits
    return logits[0, 0]


def plain_scores(network: PreTrainedModel, samples: Sequence[Encoded]) -> Tensor:
    return torch.stack([plain_score(network, sample) for sample in samples])


def gradients(network: PreTrainedModel, scores: Tensor) -> dict[str, Tensor]:
    """The gradients of a weighted sum of the scores, by parameter; those of the network are cleared."""
    network.zero_grad()
    (scores * torch.linspace(-1.0, 2.0, len(scores))).sum().backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def assert_same_gradients(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Both cover the same parameters, with the same values up to float32 rounding."""
    assert ours.keys() == expected.keys()
    assert sum(bool(gradient.abs().max() > 1e-3) for gradient in expected.values()) > 5
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(
            ours[name], gradient, atol=1e-5 + 1e-4 * largest, rtol=1e-3, msg=f"{name}: ".__add__
        )
