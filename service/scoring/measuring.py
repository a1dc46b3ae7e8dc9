"""Measure forward plans on this machine: tokens a second of each, and which plan is best."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from metarm.model.encoding import Encoded
from metarm.model.forward.packing import consecutive
from metarm.model.reward_model import DEFAULT_BATCH_TOKENS, RewardModel
from metarm.runtime.progress import progress_bar
from service.scoring.plan import ForwardPlan

OTHER_BATCH_TOKENS = (DEFAULT_BATCH_TOKENS // 2, DEFAULT_BATCH_TOKENS * 2)
CLOSE = 0.97  # a plan with this share of the fastest rate counts as equally fast
GAIN = 1.1  # least gain of another batch size: small batches fill less well, large ones take memory
WORK_TOKENS = 8192  # in the sequences that are scored


@dataclass(frozen=True, slots=True)
class Timing:
    rounds: int  # timings of each plan; the fastest counts
    timing_s: float = 0.5  # a timing ends with the batch that is running then
    slow_s: float = 1.0  # a model that takes longer for its first batch is not measured


FIRST_START = Timing(rounds=2)  # the first start waits for it
THOROUGH = Timing(rounds=5)


@dataclass(frozen=True, slots=True)
class Measured:
    plan: ForwardPlan
    tokens_per_s: float


def measure_plans(model: RewardModel, cores: int, timing: Timing) -> Iterator[Measured]:
    """Measure how to share out `cores`, then how large a batch to use. Yields nothing for a model that is
    too slow to measure."""
    samples = sample_sequences(model)
    started = time.monotonic()
    with torch.inference_mode():
        model.scores(samples[:4])
    if time.monotonic() - started > timing.slow_s:
        return
    single = ForwardPlan.of_single_batches
    splits = [(count, cores // count) for count in range(1, cores + 1) if cores % count == 0]
    measured = compare(model, samples, [single(*split, DEFAULT_BATCH_TOKENS) for split in splits], timing)
    yield from measured
    best = best_split(measured)
    others = [single(best.workers, best.threads, tokens) for tokens in OTHER_BATCH_TOKENS]
    yield from compare(model, samples, others, timing)


def compare(
    model: RewardModel, samples: Sequence[Encoded], plans: Sequence[ForwardPlan], timing: Timing
) -> list[Measured]:
    """Measure the plans in turn; the highest rate of each counts, because other work can only lower a rate."""
    rates: dict[ForwardPlan, list[float]] = {plan: [] for plan in plans}
    for plan in progress_bar([*plans] * timing.rounds, "measuring the forward", "timings"):
        rates[plan].append(_tokens_per_s(model, samples, plan, timing.timing_s))
    return [Measured(plan, max(values)) for plan, values in rates.items()]


def best_plan(results: Sequence[Measured], default: ForwardPlan) -> ForwardPlan:
    """The best way to share out the cores, with the default batch size unless another is clearly faster.
    `default` without results."""
    if not results:
        return default
    split = best_split([result for result in results if result.plan.batch_tokens == DEFAULT_BATCH_TOKENS])
    rates = {result.plan: result.tokens_per_s for result in results}
    alike = [plan for plan in rates if (plan.workers, plan.threads) == (split.workers, split.threads)]
    fastest = max(alike, key=rates.__getitem__)
    return fastest if rates[fastest] >= GAIN * rates[split] else split


def best_split(results: Sequence[Measured]) -> ForwardPlan:
    """Of the plans that are about as fast as the fastest, the one with the most workers: other processes slow
    it least."""
    fastest = max(result.tokens_per_s for result in results)
    close = [result.plan for result in results if result.tokens_per_s >= CLOSE * fastest]
    return max(close, key=lambda plan: plan.workers)


def sample_sequences(model: RewardModel) -> list[Encoded]:
    """Random tokens in sequences of log-normal lengths (20 to 512, mean about 140)."""
    rng = random.Random(0)
    vocabulary = model.network.config.get_text_config().vocab_size
    longest = min(512, model.encoder.max_tokens)
    samples: list[Encoded] = []
    while sum(len(s.ids) for s in samples) < WORK_TOKENS:
        length = min(longest, max(20, round(rng.lognormvariate(4.7, 0.7))))
        samples.append(Encoded([rng.randrange(vocabulary) for _ in range(length)], None, truncated=False))
    return samples


def _tokens_per_s(model: RewardModel, samples: Sequence[Encoded], plan: ForwardPlan, timing_s: float) -> float:
    """The rate of all workers of a plan together."""
    rates: list[float] = []

    def work(number: int) -> None:
        torch.set_num_threads(plan.threads)  # of this thread alone
        batches = list(consecutive([len(s.ids) for s in samples], plan.batch_tokens))
        tokens, started = 0, time.perf_counter()
        for run in itertools.islice(itertools.cycle(batches), number, None):
            batch = samples[run.start : run.stop]
            with torch.inference_mode():
                model.scores(batch, plan.batch_tokens)
            tokens += sum(len(s.ids) for s in batch)
            elapsed = time.perf_counter() - started
            if elapsed > timing_s:
                rates.append(tokens / elapsed)
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(plan.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)
