"""`bench/update`: the seconds of one update of each variant, against a vanilla step and one of as many tokens.

The packaged encoder with all of its parameters, and the trainer's own loop body, batch sizes and AdamW.
Variants take turns; another variant is first in each round.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import get_args

import torch
from tqdm import tqdm

from bench.models import checkpoint
from bench.places import THREADS
from bench.workload import GeneratedPairs, Load
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel, load_model, quiet_transformers
from metarm.records import Ascent
from metarm.runtime import process_environment
from trainer.batches import (
    EncodedGroup,
    EncodedPair,
    GroupContrast,
    GroupDifference,
    MetaObjective,
    backward_preference,
)
from trainer.meta_update import MetaUpdate
from trainer.settings import TrainerSettings

ROUNDS = 5
SAME_TOKENS = "none, same tokens"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench/update", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="updates of each variant")
    rounds = parser.parse_args().rounds
    process_environment.ensure_set()
    quiet_transformers()
    torch.set_num_threads(THREADS)
    made, settings = checkpoint("encoder"), TrainerSettings()
    model = load_model(made.path, made.max_tokens)
    pairs, groups = _batches(model, settings)
    larger = _as_many_tokens(model, pairs, sum(group.tokens for group in groups))
    steps = {ascent: partial(_step, model, settings, ascent, pairs, groups) for ascent in get_args(Ascent)}
    steps[SAME_TOKENS] = partial(_step, model, settings, "none", larger, groups)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    turns = [names[(number + place) % len(names)] for number in range(rounds) for place in range(len(names))]
    for name in tqdm(turns, "updates", disable=None, leave=False):
        seconds[name].append(steps[name]())
    tokens: dict[str, int] = {ascent: _tokens(ascent, pairs, groups) for ascent in get_args(Ascent)}
    _show(seconds, tokens | {"none": _tokens("none", pairs, []), SAME_TOKENS: _tokens("none", larger, [])})


def _batches(model: RewardModel, settings: TrainerSettings) -> tuple[list[EncodedPair], list[EncodedGroup]]:
    """n pairs and m groups of k responses, of the loads' lengths."""
    groups = _encoded(model, settings.responses_per_prompt, settings.meta_batch_size, "groups")
    return _pairs(model, settings.batch_size, "pairs"), groups


def _as_many_tokens(model: RewardModel, pairs: Sequence[EncodedPair], tokens: int) -> list[EncodedPair]:
    """`pairs` and further ones, of which the further ones have about `tokens` tokens."""
    more = _pairs(model, 200, "more")
    sums = list(itertools.accumulate(pair.tokens for pair in more))
    return [*pairs, *more[: next(place for place, total in enumerate(sums, 1) if total >= tokens)]]


def _pairs(model: RewardModel, count: int, draw: str) -> list[EncodedPair]:
    groups = _encoded(model, 2, count, draw)
    return [EncodedPair(group.responses[0], group.responses[1], 0.0) for group in groups]


def _encoded(model: RewardModel, responses: int, count: int, draw: str) -> list[EncodedGroup]:
    requests = GeneratedPairs(model.encoder).requests(Load(draw, "encoder", 1, responses, count), draw)
    encoded = model.encoder.encode([(request.prompt, request.responses) for request in requests])
    return [EncodedGroup(f"g{number}", group) for number, group in enumerate(encoded)]


def _step(
    model: RewardModel,
    settings: TrainerSettings,
    ascent: Ascent,
    pairs: Sequence[EncodedPair],
    groups: Sequence[EncodedGroup],
) -> float:
    """Seconds of one update. Each call makes an optimiser and its state before the clock starts; the learning
    rates are too small to change the model between timings."""
    parameters = list(model.network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-12, fused=True)
    update = MetaUpdate(parameters, optimizer, ascent, 1e-12, max_grad_norm=settings.max_grad_norm)
    micro_tokens = settings.micro_batch_tokens
    preference = partial(backward_preference, model, pairs, micro_tokens)
    objective = _objective(model, settings, ascent, pairs, groups)
    first = partial(backward_preference, model, pairs[:1], micro_tokens)
    update.step(first, GroupDifference(model, groups[:1], 2, micro_tokens))
    started = time.perf_counter()
    update.step(preference, objective)
    return time.perf_counter() - started


def _objective(
    model: RewardModel,
    settings: TrainerSettings,
    ascent: Ascent,
    pairs: Sequence[EncodedPair],
    groups: Sequence[EncodedGroup],
) -> MetaObjective:
    k, micro_tokens = settings.responses_per_prompt, settings.micro_batch_tokens
    if ascent == "conservative":
        return GroupContrast(model, groups, _references(pairs), 1.0, k, micro_tokens)
    return GroupDifference(model, groups, k, micro_tokens)


def _references(pairs: Sequence[EncodedPair]) -> Iterator[Encoded]:
    return itertools.cycle(pair.chosen for pair in pairs)


def _tokens(ascent: str, pairs: Sequence[EncodedPair], groups: Sequence[EncodedGroup]) -> int:
    """The tokens that an update reads: pairs, groups, and for `conservative` one reference for every sample."""
    found = sum(pair.tokens for pair in pairs) + sum(group.tokens for group in groups)
    if ascent == "conservative":
        samples = sum(len(group.responses) for group in groups)
        found += sum(len(reference.ids) for reference in itertools.islice(_references(pairs), samples))
    return found


def _show(seconds: dict[str, list[float]], tokens: dict[str, int]) -> None:
    print(f"{'ascent':20}{'tokens':>8}{'seconds':>9}  {'[min-max]':15}{'÷ none':>8}{'÷ none, per token':>19}")
    vanilla = statistics.median(seconds["none"])
    per_token = statistics.median(seconds[SAME_TOKENS]) / tokens[SAME_TOKENS]
    for name, found in seconds.items():
        middle = statistics.median(found)
        spread = f"[{min(found):.2f}-{max(found):.2f}]"
        share = middle / tokens[name] / per_token
        print(f"{name:20}{tokens[name]:8}{middle:9.2f}  {spread:15}{middle / vanilla:8.2f}{share:19.2f}")


if __name__ == "__main__":
    main()
