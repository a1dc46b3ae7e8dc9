"""One slice of samples → scores, as fast as this machine allows. Runs in the forward threads."""

from __future__ import annotations

import logging
import os

import torch

from metarm.cores import worker_cpus
from metarm.encoding import Encoded
from metarm.forward import PrefixCache
from metarm.model import DEFAULT_BATCH_TOKENS
from service.live_model import LoadedVersion
from service.tuning import ForwardPlan

log = logging.getLogger(__name__)


class Engine:
    """Scores slices by the plan in use."""

    def __init__(self, prefixes: PrefixCache | None) -> None:
        """`prefixes` keeps prompts from slice to slice."""
        self._prefixes = prefixes
        self._plan = ForwardPlan(1, 1, DEFAULT_BATCH_TOKENS, DEFAULT_BATCH_TOKENS)

    def use(self, plan: ForwardPlan) -> None:
        self._plan = plan

    def pin(self, worker: int) -> None:
        """Keep the calling thread, and the threads torch starts for it, to one NUMA node."""
        cpus = worker_cpus(self._plan.workers)[worker]
        if cpus is None:
            return
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            log.warning("worker %d is not kept to one NUMA node: %s", worker, error)

    def score_slice(self, version: LoadedVersion, samples: list[Encoded], share: int) -> list[float]:
        """Rewards in the order of `samples`, as the model answers them (finite or not). Sequences of the
        same tokens are computed once. Uses the cores of `share` workers."""
        torch.set_num_threads(self._plan.threads * share)  # every time: MKL's count is not the thread's own
        keys = [sample.key for sample in samples]
        distinct = dict(zip(keys, samples, strict=True))
        prefixes = self._prefixes.of(version.name) if self._prefixes else None
        with torch.inference_mode():
            scores = version.model.scores(list(distinct.values()), self._plan.batch_tokens, prefixes).tolist()
        by_key = dict(zip(distinct, scores, strict=True))
        return [by_key[key] for key in keys]
