"""How the forward uses this machine: worker threads, cores of each, tokens of a batch. Measured once.

`metarm tune` measures again and shows the table. The result lies in the data folder (tuning.json) and
holds for the machine, torch and model shape it was measured on.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metarm.model.encoding import Encoded
from metarm.model.forward.packing import consecutive
from metarm.model.parallel import score_parallel
from metarm.model.reward_model import DEFAULT_BATCH_TOKENS, RewardModel, load_model, quiet_transformers
from metarm.runtime import process_environment
from metarm.runtime.cores import usable_cores
from metarm.runtime.progress import bar
from service.settings import ServiceSettings

log = logging.getLogger(__name__)

FILE = "tuning.json"
OTHER_BATCH_TOKENS = (DEFAULT_BATCH_TOKENS // 2, DEFAULT_BATCH_TOKENS * 2)
CLOSE = 0.97  # as fast as the fastest
GAIN = 1.1  # that another batch size must bring: small batches fill less well, large ones take memory
SLICES_TO_SORT = 4  # batches' tokens taken at once where sorting them by length saves padding
WORK_TOKENS = 8192  # that timings draw from
TIMING_S = 0.5  # of one timing, and the batch that runs then
ROUNDS, START_ROUNDS = 5, 2  # of `metarm tune`, and of a first start, which somebody waits for
SLOW_S = 1.0  # a model that takes this long for one batch is not measured: the default serves


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """`workers` threads, each running batches of up to `batch_tokens` tokens on `threads` cores, and taking
    `slice_tokens` from the queue at once."""

    workers: int
    threads: int
    batch_tokens: int
    slice_tokens: int


@dataclass(frozen=True, slots=True)
class Measured:
    plan: ForwardPlan
    tokens_per_s: float


def choose_plan(model: RewardModel, settings: ServiceSettings) -> ForwardPlan:
    """What the settings say; for what they leave open, what was measured on this machine before, or is
    measured now. Never fails over a file that cannot be read or written."""
    cores = usable_cores()
    workers = settings.score_workers
    threads = settings.score_threads or max(1, cores // (workers or cores))
    plan = _plan(workers or max(1, cores // threads), threads, settings.batch_tokens or DEFAULT_BATCH_TOKENS)
    if settings.tune and not any((workers, settings.score_threads, settings.batch_tokens)):
        plan = _measured(model, settings.data_dir.absolute() / FILE, plan)
    slices = SLICES_TO_SORT if model.route.pads else 1
    return replace(plan, slice_tokens=settings.slice_tokens or slices * plan.batch_tokens)


def _measured(model: RewardModel, file: Path, default: ForwardPlan) -> ForwardPlan:
    """The plan in `file` where it holds for this machine and model, else one measured now."""
    fingerprint = _fingerprint(model)
    found = _read(file, fingerprint)
    if found is None:
        found = _best(list(calibrate(model, START_ROUNDS)), default)
        _write(file, fingerprint, found)
    return found


def calibrate(model: RewardModel, rounds: int) -> Iterator[Measured]:
    """Time the plans this machine allows on sequences of common lengths: first how to share out the
    cores, then how large a batch. Yields as it goes; nothing for a model too slow to measure."""
    cores = usable_cores()
    samples = _samples(model)
    started = time.monotonic()
    with torch.inference_mode():
        model.scores(samples[:4])
    if time.monotonic() - started > SLOW_S:
        return
    splits = [count for count in range(1, cores + 1) if cores % count == 0]
    measured = _compare(
        model, samples, [_plan(count, cores // count, DEFAULT_BATCH_TOKENS) for count in splits], rounds
    )
    yield from measured
    best = _best_split(measured)
    yield from _compare(
        model, samples, [_plan(best.workers, best.threads, tokens) for tokens in OTHER_BATCH_TOKENS], rounds
    )


def _plan(workers: int, threads: int, batch_tokens: int) -> ForwardPlan:
    return ForwardPlan(workers, threads, batch_tokens, batch_tokens)


def main() -> None:
    """`metarm tune`: measure, show, write down."""
    process_environment.ensure()
    settings = ServiceSettings.from_command_line("metarm tune", sys.argv[1:])
    quiet_transformers()
    current = settings.store.current()
    if current is None:
        sys.exit(f"metarm tune: {settings.store.root} has no version yet; start the server once")
    model = load_model(settings.store.path(current), settings.max_tokens)
    print(f"{current}, {model.route.name} route, {usable_cores()} cores, torch {torch.__version__}")
    print("workers  cores each  batch tokens  tokens/s")
    results = []
    for result in calibrate(model, ROUNDS):
        results.append(result)
        plan = result.plan
        print(
            f"{plan.workers:7}  {plan.threads:10}  {plan.batch_tokens:12}  {result.tokens_per_s:8.0f}",
            flush=True,
        )
    if not results:
        sys.exit("metarm tune: one batch takes over a second: the default, a worker a core, stays")
    best = _best(results, results[0].plan)
    file = settings.data_dir.absolute() / FILE
    _write(file, _fingerprint(model), best)
    print(f"chosen: {best.workers} workers, {best.threads} cores each, {best.batch_tokens} tokens → {file}")
    _show_reduced_precision(model, best)


def _show_reduced_precision(model: RewardModel, plan: ForwardPlan) -> None:
    """What METARM_SCORE_DTYPE=bfloat16 would gain and cost. Changes the model."""
    samples = _samples(model)
    (before,) = _compare(model, samples, [plan], START_ROUNDS)
    exact = score_parallel(model, samples, workers=plan.workers, threads=plan.threads)
    model.reduce_precision()
    (after,) = _compare(model, samples, [plan], START_ROUNDS)
    reduced = score_parallel(model, samples, workers=plan.workers, threads=plan.threads)
    first, second = torch.triu_indices(len(samples), len(samples), 1)
    agreement = (
        ((exact[first] - exact[second]).sign() == (reduced[first] - reduced[second]).sign()).float().mean()
    )
    print(
        f"bfloat16: {after.tokens_per_s / before.tokens_per_s:.2f} times as fast; scores off by at most "
        f"{(exact - reduced).abs().max():.1e} (they spread by {exact.std():.1e}), {agreement:.1%} of pairs "
        "ranked alike. Opt in with METARM_SCORE_DTYPE=bfloat16"
    )


def _compare(
    model: RewardModel, samples: Sequence[Encoded], plans: Sequence[ForwardPlan], rounds: int
) -> list[Measured]:
    """The best rate of each plan, taken in turn: whatever else runs on the machine only slows."""
    rates: dict[ForwardPlan, list[float]] = {plan: [] for plan in plans}
    for plan in bar([*plans] * rounds, "measuring the forward", "plan"):
        rates[plan].append(_rate(model, samples, plan))
    return [Measured(plan, max(values)) for plan, values in rates.items()]


def _rate(model: RewardModel, samples: Sequence[Encoded], plan: ForwardPlan) -> float:
    """Tokens a second of the plan's workers, all busy."""
    rates: list[float] = []

    def work(number: int) -> None:
        torch.set_num_threads(plan.threads)  # the calling thread's own
        batches = list(consecutive([len(s.ids) for s in samples], plan.batch_tokens))
        tokens, started = 0, time.perf_counter()
        for run in itertools.islice(itertools.cycle(batches), number, None):
            batch = samples[run.start : run.stop]
            with torch.inference_mode():
                model.scores(batch, plan.batch_tokens)
            tokens += sum(len(s.ids) for s in batch)
            elapsed = time.perf_counter() - started
            if elapsed > TIMING_S:
                rates.append(tokens / elapsed)
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(plan.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def _samples(model: RewardModel) -> list[Encoded]:
    """Random tokens of log-normal lengths (20 to 512, mean about 140)."""
    rng = random.Random(0)
    vocabulary = model.network.config.get_text_config().vocab_size
    longest = min(512, model.encoder.max_tokens)
    samples: list[Encoded] = []
    while sum(len(s.ids) for s in samples) < WORK_TOKENS:
        length = min(longest, max(20, round(rng.lognormvariate(4.7, 0.7))))
        samples.append(Encoded([rng.randrange(vocabulary) for _ in range(length)], None, truncated=False))
    return samples


def _best(results: Sequence[Measured], default: ForwardPlan) -> ForwardPlan:
    """The best way to share out the cores, with its fastest batch size; with the default one unless
    another is clearly faster."""
    if not results:
        return default
    split = _best_split([result for result in results if result.plan.batch_tokens == DEFAULT_BATCH_TOKENS])
    rates = {result.plan: result.tokens_per_s for result in results}
    alike = [plan for plan in rates if (plan.workers, plan.threads) == (split.workers, split.threads)]
    fastest = max(alike, key=rates.__getitem__)
    return fastest if rates[fastest] >= GAIN * rates[split] else split


def _best_split(results: Sequence[Measured]) -> ForwardPlan:
    """The fastest; of those within a few percent of it, the one with the most workers, which a busy
    neighbour slows least."""
    fastest = max(result.tokens_per_s for result in results)
    close = [result.plan for result in results if result.tokens_per_s >= CLOSE * fastest]
    return max(close, key=lambda plan: plan.workers)


def _fingerprint(model: RewardModel) -> dict[str, Any]:
    """What a measurement holds for."""
    config = model.network.config.get_text_config()
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": usable_cores(),
        "torch": torch.__version__,
        "dtype": str(model.network.dtype),
        "architecture": type(model.network).__name__,
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _read(file: Path, fingerprint: dict[str, Any]) -> ForwardPlan | None:
    try:
        record = json.loads(file.read_text())
        return ForwardPlan(**record["plan"]) if record["measured_on"] == fingerprint else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is passed over: %s", file, error)
        return None


def _write(file: Path, fingerprint: dict[str, Any], plan: ForwardPlan) -> None:
    record = {"plan": asdict(plan), "measured_on": fingerprint}
    part = file.with_suffix(f".{socket.gethostname()}-{os.getpid()}.part")  # containers have equal ids
    try:
        part.write_text(json.dumps(record, indent=2) + "\n")
        part.replace(file)
    except OSError as error:
        log.warning(
            "the forward plan is measured again at the next start: %s cannot be written: %s", file, error
        )


if __name__ == "__main__":
    main()
