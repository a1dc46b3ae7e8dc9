"""Token ids → rewards: the routes a forward can take, and which one a network gets.

| route   | for                                    | padding | last layer         | shared prompts |
| ------- | -------------------------------------- | ------- | ------------------ | -------------- |
| encoder | the BERT and RoBERTa families          | none    | pooled tokens only | -              |
| decoder | the Llama, Mistral and Qwen families   | none    | pooled tokens only | computed once  |
| padded  | every other network, by its public API | yes     | all tokens         | -              |

All compute what the network's own forward of each sequence alone computes (1e-4 in float32), are
differentiable, and use the network's own parameters: nothing is exported or compiled, so a swap has
nothing to prepare. docs/decisions/0005-packed-forward.md has what was weighed and measured.
"""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from metarm.encoding import Encoded
from metarm.forward.decoder import PackedDecoder
from metarm.forward.encoder import PackedEncoder
from metarm.forward.padded import Padded
from metarm.forward.prefixes import PrefixCache, PrefixStore

log = logging.getLogger(__name__)

PROBE_LENGTHS = (37, 5, 18)  # of the sequences on which a packed route must agree with the public forward
PROBE_TOLERANCE = 1e-4  # relative to the largest score where that exceeds 1


class Route(Protocol):
    """One way to run a network's forward."""

    name: str
    pads: bool
    shares_prompts: bool

    def scores(self, samples: list[Encoded], batch_tokens: int, prefixes: PrefixStore | None) -> Tensor:
        """Rewards (n,) in float32, in the order of `samples`, at most `batch_tokens` tokens (or one
        sequence) a forward. `prefixes` keeps prompts from call to call, where the route can use them."""
        ...


def choose_route(network: PreTrainedModel, max_tokens: int) -> Route:
    """The fastest route that fits the network and sequences of up to `max_tokens`: one that is not of a
    known family, or on which the packed forward disagrees with its own, gets the padded one."""
    padded = Padded(network)
    for packed in (PackedEncoder, PackedDecoder):
        if not packed.fits(network, max_tokens):
            continue
        route = packed(network)
        difference = _disagreement(network, route, padded)
        if difference <= PROBE_TOLERANCE:
            return route
        log.warning(
            "%s: the packed forward differs from its own by %.1e; scoring goes the slower, padded way",
            type(network).__name__,
            difference,
        )
    return padded


@torch.inference_mode()
def _disagreement(network: PreTrainedModel, route: Route, padded: Padded) -> float:
    """The largest difference between two routes on a few short sequences (0 in exact arithmetic)."""
    vocabulary = network.config.get_text_config().vocab_size
    pattern = torch.randint(vocabulary, (max(PROBE_LENGTHS),), generator=torch.Generator().manual_seed(0))
    ids: list[int] = pattern.tolist()
    samples = [Encoded(ids[:length], None, truncated=False) for length in PROBE_LENGTHS]
    expected = torch.cat([padded.scores([sample], 1, None) for sample in samples])
    difference = (route.scores(samples, sum(PROBE_LENGTHS), None) - expected).abs().max()
    return float(difference / expected.abs().max().clamp(min=1.0))


__all__ = ["PrefixCache", "PrefixStore", "Route", "choose_route"]
