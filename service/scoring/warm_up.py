"""Warms up a model before it serves, so that no request pays for the setup costs of a first forward."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator

import torch

from metarm.errors import InvalidVersionError
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel, all_finite
from service.scoring.plan import ForwardPlan

PROMPT = "Which of the two trains is faster?"
SENTENCE = "The second one, by about ten kilometres an hour. "
LENGTHS = (1, 12, 3, 6, 2, 24, 4, 8)  # sentences of a response


@torch.inference_mode()
def warm_up(model: RewardModel, plan: ForwardPlan, *, whole_slice: bool) -> None:
    """Score a lone text and, with `whole_slice`, one slice of common lengths. A network of a kind that has been
    warmed needs only the text: it shares the chosen kernels and the allocated memory, and a slice costs more
    than the rest of a load. Raises InvalidVersionError for non-finite scores."""
    scores = model.scores(list(_slice(model, 1))).tolist()
    if whole_slice:
        scores += model.scores(list(_slice(model, plan.slice_tokens)), plan.batch_tokens).tolist()
    if not all_finite(scores):
        raise InvalidVersionError("the model's scores are not finite")


def kind_of(model: RewardModel) -> Hashable:
    """Equal for networks that run the same operations on the same shapes."""
    network = model.network
    shapes = tuple((name, tuple(weight.shape)) for name, weight in network.named_parameters())
    return type(network), network.dtype, shapes


def _slice(model: RewardModel, tokens: int) -> Iterator[Encoded]:
    """Responses of several lengths to a few prompts, of `tokens` tokens or a little more."""
    for number in itertools.count():
        responses = [SENTENCE * length for length in LENGTHS]
        for sample in model.encoder.encode([(f"{number}. {PROMPT}", responses)])[0]:
            yield sample
            tokens -= len(sample.ids)
            if tokens <= 0:
                return
