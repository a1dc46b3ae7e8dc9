"""One slice of samples → scores, as fast as this machine allows. Runs in the forward threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import torch

from metarm.model.encoding import Encoded
from metarm.model.forward import PrefixCache
from metarm.model.reward_model import DEFAULT_BATCH_TOKENS
from metarm.runtime.cores import worker_cpus
from service.scoring.placement import Placement
from service.scoring.plan import ForwardPlan
from service.versions.live_model import LoadedVersion


class Engine:
    """Scores slices by the plan in use."""

    def __init__(
        self, prefixes: PrefixCache | None, padded: Callable[[float], None] = lambda _share: None
    ) -> None:
        """`prefixes` keeps prompts from slice to slice. `padded` is told, for every slice, which share of its
        multiplied tokens was padding."""
        self._prefixes = prefixes
        self._padded = padded
        self._plan = ForwardPlan(1, 1, DEFAULT_BATCH_TOKENS, DEFAULT_BATCH_TOKENS)
        self._of_thread = threading.local()

    def use(self, plan: ForwardPlan) -> None:
        self._plan = plan

    def begin(self, worker: int) -> None:
        """Place the calling thread; before its first slice."""
        workers = self._plan.workers
        one_a_core = self._plan.threads == 1 and workers == len(os.sched_getaffinity(0))
        self._of_thread.placement = Placement(worker, worker_cpus(workers)[worker], bind=one_a_core)

    def score_slice(self, version: LoadedVersion, samples: list[Encoded], share: int) -> list[float]:
        """Rewards in the order of `samples`, as the model answers them (finite or not). Sequences of the
        same tokens are computed once. Uses the cores of `share` workers."""
        keys = [sample.key for sample in samples]
        distinct = dict(zip(keys, samples, strict=True))
        prefixes = self._prefixes.of(version.name) if self._prefixes else None
        placement: Placement = self._of_thread.placement
        with placement.on(self._plan.threads, share), torch.inference_mode():
            once = list(distinct.values())
            scores = version.model.scores(once, self._plan.batch_tokens, prefixes).tolist()
        self._padded(version.model.padding_ratio(once, self._plan.batch_tokens))
        by_key = dict(zip(distinct, scores, strict=True))
        return [by_key[key] for key in keys]
