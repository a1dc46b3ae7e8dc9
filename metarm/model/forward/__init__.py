"""Token ids → rewards: the routes of a forward, and the choice of one for a network.

| route   | for                                    | padding | last layer         | shared prompts |
| ------- | -------------------------------------- | ------- | ------------------ | -------------- |
| encoder | the BERT and RoBERTa families          | none    | pooled tokens only | -              |
| decoder | the Llama, Mistral and Qwen families   | none    | pooled tokens only | computed once  |
| padded  | every other network, by its public API | yes     | all tokens         | -              |

Every route computes the same as the network's own forward of each sequence alone (within 1e-4 in
float32), is differentiable, and uses the network's own parameters: nothing is exported or compiled, so
a swap prepares nothing. docs/decisions/0005-packed-forward.md has the alternatives and measurements.
"""

from __future__ import annotations

import logging
import random
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from metarm.model.encoding import Encoded
from metarm.model.forward.decoder import PackedDecoder
from metarm.model.forward.encoder import PackedEncoder
from metarm.model.forward.padded import Padded
from metarm.model.forward.prefixes import PrefixCache, PrefixStore

log = logging.getLogger(__name__)

PROBE_LENGTHS = (37, 5, 18)  # tokens of the sequences that compare a packed route with the public forward
PROBE_TOLERANCE = 1e-4  # largest `_disagreement`


class Route(Protocol):
    """A way to run a network's forward."""

    name: str
    pads: bool
    shares_prompts: bool

    def scores(self, samples: list[Encoded], batch_tokens: int, prefixes: PrefixStore | None) -> Tensor:
        """Rewards (n,) in float32, in the order of `samples`. One forward takes at most `batch_tokens`
        tokens, or one sequence. `prefixes` keeps prompts between calls, for the routes that use it."""
        ...

    def recomputing(self) -> AbstractContextManager[None]:
        """Inside the block, a forward keeps only the inputs of each layer, and the backward pass recomputes
        the rest. Raises ConfigurationError for a network that does not support it."""
        ...


def choose_route(network: PreTrainedModel, max_tokens: int) -> Route:
    """The fastest route that fits the network and sequences of up to `max_tokens`. A network of an unknown
    family, or whose packed forward differs from its own, gets the padded route."""
    padded = Padded(network)
    probe = _probe(network, max_tokens)
    for packed in (PackedEncoder, PackedDecoder):
        if not packed.fits(network, max_tokens):
            continue
        route = packed(network)
        difference = _disagreement(padded, route, probe)
        if difference <= PROBE_TOLERANCE:
            return route
        log.warning(
            "%s: the packed forward differs from the network's own by %.1e; using the slower padded route",
            type(network).__name__,
            difference,
        )
    if _disagreement(padded, padded, probe) > PROBE_TOLERANCE:
        log.warning("%s: padding changes its scores; sequences are scored one by one", type(network).__name__)
        padded.one_by_one = True
    return padded


def _probe(network: PreTrainedModel, max_tokens: int) -> list[Encoded]:
    """A few short sequences without padding tokens."""
    config = network.config.get_text_config()
    others = [token for token in range(config.vocab_size) if token != config.pad_token_id]
    chosen = random.Random(0).choices(others, k=max(PROBE_LENGTHS))
    return [Encoded(chosen[: min(length, max_tokens)], None, truncated=False) for length in PROBE_LENGTHS]


@torch.inference_mode()
def _disagreement(padded: Padded, route: Route, probe: list[Encoded]) -> float:
    """The largest difference between `route` and the public forward of each sequence alone, relative to the
    largest absolute score, or to 1 if that is larger."""
    expected = torch.cat([padded.scores([sample], 1, None) for sample in probe])
    together = sum(PROBE_LENGTHS) * len(probe)
    difference = (route.scores(probe, together, None) - expected).abs().max()
    return float(difference / expected.abs().max().clamp(min=1.0))


__all__ = ["Padded", "PrefixCache", "PrefixStore", "Route", "choose_route"]
