"""Layers whose activations are computed again in the backward pass instead of kept: memory for time."""

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

# dropout is off: there is no random state to bring back
_again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


class LayerRunner:
    """Calls the layers of a packed forward; inside `recomputing`, keeps of each its inputs alone."""

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
        """`layer(*arguments)`, which must compute the same when called again."""
        if not (self._recompute and torch.is_grad_enabled()):
            return layer(*arguments)
        found: Result = _again(layer, *arguments)
        return found


@contextmanager
def own_layers_recomputed(network: PreTrainedModel) -> Iterator[None]:
    """The same inside the block for a network's own forward, in eval mode. Raises ConfigurationError for one
    whose layers transformers does not mark.

    `gradient_checkpointing_enable` has no effect in eval mode, and training mode would turn dropout on.
    """
    layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigurationError(f"{type(network).__name__} does not support gradient checkpointing")
    caches = getattr(network.config, "use_cache", None)
    if caches:  # a layer that is run again would add its keys and values once more
        network.config.use_cache = False
    for layer in layers:
        vars(layer)["forward"] = partial(_again, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]
        if caches:
            network.config.use_cache = caches
