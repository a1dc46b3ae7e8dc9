"""Gradient checkpointing of layers: the backward pass recomputes activations instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from metarm.errors import ConfigurationError

Result = TypeVar("Result")

# dropout is off: there is no random state to restore
_checkpointed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


class LayerRunner:
    """Calls the layers of a packed forward; inside `recomputing`, only their inputs are kept."""

    def __init__(self) -> None:
        self._recompute = False

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        self._recompute = True
        try:
            yield
        finally:
            self._recompute = False

    def run(self, layer: Callable[..., Result], *arguments: object) -> Result:
        """The result of `layer(*arguments)`, which must compute the same when it is called again."""
        if not (self._recompute and torch.is_grad_enabled()):
            return layer(*arguments)
        found: Result = _checkpointed(layer, *arguments)
        return found


@contextmanager
def own_layers_recomputed(network: PreTrainedModel) -> Iterator[None]:
    """Gradient checkpointing of a network's own forward inside the block, in eval mode. Raises
    ConfigurationError for a network without layers that transformers marks for it.

    `gradient_checkpointing_enable` has no effect in eval mode, and training mode would enable dropout.
    """
    layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigurationError(f"{type(network).__name__} does not support gradient checkpointing")
    caches = getattr(network.config, "use_cache", None)
    if caches:  # a recomputed layer would append its keys and values again
        network.config.use_cache = False
    for layer in layers:
        vars(layer)["forward"] = partial(_checkpointed, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]
        if caches:
            network.config.use_cache = caches
