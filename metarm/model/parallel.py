"""Score many samples offline on all cores: parallel threads, each with its own batch."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from metarm.model.encoding import Encoded
from metarm.model.forward.packing import consecutive
from metarm.model.reward_model import DEFAULT_BATCH_TOKENS, RewardModel


def score_parallel(
    model: RewardModel,
    samples: Sequence[Encoded],
    *,
    workers: int,
    threads: int = 1,
) -> Tensor:
    """Rewards (n,) in float32, in the order of `samples`, without gradients.

    `workers` batches run at once on `threads` cores each. Two batches on one core each finish sooner
    than the same two in turn on both cores, where threads wait for one another in every layer.
    """
    waiting = list(consecutive([len(sample.ids) for sample in samples], DEFAULT_BATCH_TOKENS))
    parts: dict[int, Tensor] = {}
    failures: list[Exception] = []
    lock = threading.Lock()

    def work() -> None:
        torch.set_num_threads(threads)  # of the calling thread
        while True:
            with lock:
                if not waiting or failures:
                    return
                run = waiting.pop()
            try:
                with torch.inference_mode():
                    parts[run.start] = model.scores(samples[run.start : run.stop])
            except Exception as error:  # noqa: BLE001 (raised again by the caller's thread)
                failures.append(error)

    team = [threading.Thread(target=work) for _ in range(workers)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    if failures:
        raise failures[0]
    return torch.cat([parts[start] for start in sorted(parts)])
