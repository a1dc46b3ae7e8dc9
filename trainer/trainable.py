"""The parameters that a run trains: all of them, only the head, or the head and low-rank adapters of the trunk.

The trunk is transformers' `network.base_model`; the head is every parameter outside it:

| family                         | head                                                   |
| ------------------------------ | ------------------------------------------------------ |
| BERT                           | classifier (the pooler belongs to the trunk)           |
| RoBERTa, XLM-RoBERTa, ELECTRA  | classifier, which has two layers (dense, out_proj)     |
| DistilBERT                     | pre_classifier, classifier                             |
| DeBERTa-v2                     | pooler, classifier                                     |
| ModernBERT                     | head (dense, norm), classifier                         |
| Llama, Mistral, Qwen, GPT-2    | score                                                  |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import Parameter
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

from metarm.errors import ConfigurationError
from metarm.records import Trainable


@contextmanager
def trainable(
    network: PreTrainedModel, which: Trainable, *, rank: int, alpha: int, seed: int
) -> Iterator[list[Parameter]]:
    """Inside the block, the parameters to train; all others are frozen and build no graph.

    `full`: all. `head`: those outside `network.base_model`. `lora`: the head, and adapters B·A of `rank`,
    scaled by alpha/rank, beside every linear layer of the trunk (A is random by `seed`, B is zero: scores start
    unchanged). After the block, even where it raised, the adapters are merged into the weights, and the network
    has its own layers and names again. Raises ConfigurationError for a network without a head or, with `lora`,
    without a linear layer in its trunk.
    """
    if which == "full":
        yield [p for p in network.parameters() if p.requires_grad]
        return
    head = head_of(network)
    learning = [p for p in network.parameters() if p.requires_grad]
    with _adapted(network, rank, alpha, seed) if which == "lora" else nullcontext():
        adapters = [p for name, p in network.named_parameters() if ".lora_" in name]
        network.requires_grad_(False)
        chosen = [*adapters, *head]
        for parameter in chosen:
            parameter.requires_grad_(True)
        try:
            yield chosen
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


def head_of(network: PreTrainedModel) -> list[Parameter]:
    """The parameters outside the trunk. Raises ConfigurationError for a network without any."""
    trunk = {id(parameter) for parameter in network.base_model.parameters()}
    head = [parameter for parameter in network.parameters() if id(parameter) not in trunk]
    if not head:
        raise ConfigurationError(
            f"{type(network).__name__} has no head outside its trunk: train it with trainable=full"
        )
    return head


@contextmanager
def _adapted(network: PreTrainedModel, rank: int, alpha: int, seed: int) -> Iterator[None]:
    """Inside the block, adapters beside every linear layer of the trunk; merged into the layers after it."""
    from peft import LoraConfig  # takes seconds to import, and is needed only here
    from peft.tuners.lora import LoraModel

    prefix = network.base_model_prefix
    linear = {
        f"{prefix}.{name}": module
        for name, module in network.base_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    if not linear:
        raise ConfigurationError(
            f"{type(network).__name__} has no linear layer for adapters: train it with trainable=full or head"
        )
    transposed = any(isinstance(module, Conv1D) for module in linear.values())
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(linear), fan_in_fan_out=transposed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = LoraModel(network, config, "default")
    try:
        yield
    finally:
        adapted.merge_and_unload()
