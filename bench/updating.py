"""`bench/update`: seconds of one update of each variant, against a vanilla step and one of the same tokens.

The packaged encoder, all of its parameters; the trainer's own loop body, batch sizes and AdamW. Variants
take turns, in another order each round.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import get_args

import torch

from bench.models import checkpoint
from bench.places import THREADS
from bench.workload import GeneratedPairs, Load
from metarm import process_environment
from metarm.model import RewardModel, load_model, quiet_transformers
from metarm.records import Ascent
from trainer.batches import EncodedGroup, EncodedPair, GroupDifference, backward_preference
from trainer.meta_update import MetaUpdate
from trainer.settings import TrainerSettings

ROUNDS = 5
SAME_TOKENS = "none, same tokens"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/update", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    process_environment.ensure()
    quiet_transformers()
    torch.set_num_threads(THREADS)
    made, settings = checkpoint("encoder"), TrainerSettings()
    model = load_model(made.path, made.max_tokens)
    pairs, groups = _batches(model, settings)
    larger = _as_many_tokens(model, pairs, sum(group.tokens for group in groups))
    steps = {ascent: partial(_step, model, settings, ascent, pairs, groups) for ascent in get_args(Ascent)}
    steps[SAME_TOKENS] = partial(_step, model, settings, "none", larger, groups)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        names = list(steps)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(steps[name]())
    _show(seconds, sum(p.tokens for p in pairs), sum(g.tokens for g in groups), sum(p.tokens for p in larger))


def _batches(model: RewardModel, settings: TrainerSettings) -> tuple[list[EncodedPair], list[EncodedGroup]]:
    """n pairs and m groups of k responses, of the benchmarks' lengths."""
    groups = _encoded(model, settings.responses_per_prompt, settings.meta_batch_size, "groups")
    return _pairs(model, settings.batch_size, "pairs"), groups


def _as_many_tokens(model: RewardModel, pairs: Sequence[EncodedPair], tokens: int) -> list[EncodedPair]:
    """`pairs`, and more of them until these have about `tokens` tokens."""
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
    """Seconds of one update. The optimiser is new each time: its state is made before the clock starts,
    and its rates are too small to change the model from one timing to the next."""
    parameters = list(model.network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-12, fused=True)
    update = MetaUpdate(parameters, optimizer, ascent, 1e-12, max_grad_norm=settings.max_grad_norm)
    micro_tokens = settings.micro_batch_tokens
    preference = partial(backward_preference, model, pairs, micro_tokens)
    difference = GroupDifference(model, groups, settings.responses_per_prompt, micro_tokens)
    first = partial(backward_preference, model, pairs[:1], micro_tokens)
    update.step(first, GroupDifference(model, groups[:1], 2, micro_tokens))
    started = time.perf_counter()
    update.step(preference, difference)
    return time.perf_counter() - started


def _show(seconds: dict[str, list[float]], pairs: int, groups: int, larger: int) -> None:
    print(f"tokens: {pairs} in pairs, {groups} in groups; {larger} in the larger vanilla batch")
    print(f"{'ascent':20}{'seconds':>9}  {'[min-max]':15}{'÷ none':>8}{'÷ ' + SAME_TOKENS:>22}")
    vanilla, same = (statistics.median(seconds[name]) for name in ("none", SAME_TOKENS))
    for name, found in seconds.items():
        middle = statistics.median(found)
        spread = f"[{min(found):.2f}-{max(found):.2f}]"
        print(f"{name:20}{middle:9.2f}  {spread:15}{middle / vanilla:8.2f}{middle / same:22.2f}")


if __name__ == "__main__":
    main()
