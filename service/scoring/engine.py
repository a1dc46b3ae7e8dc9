"""The forward threads: the forward of one slice, sequences → rewards, and the cores its threads run on.

The kernel often leaves a woken thread on the core of the thread that woke it, although another core is idle: a
lone text on two cores took .17 to .27 ms a token, and .16 to .18 with a thread bound to each core. With as many
workers as cores, a forward that also has the cores of idle workers therefore binds one thread to each core. The
kernel places all other threads.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from metarm.model.encoding import Encoded
from metarm.model.forward import PrefixCache
from metarm.model.reward_model import DEFAULT_BATCH_TOKENS
from metarm.runtime.cores import worker_cpus
from service.scoring.plan import ForwardPlan
from service.versions.live import LoadedVersion

log = logging.getLogger(__name__)

PARALLEL_WORK = 1 << 16  # elements per thread above which torch uses all its threads


class Engine:
    """Runs slices by the plan in use."""

    def __init__(
        self, prefixes: PrefixCache | None, on_padding: Callable[[float], None] = lambda _share: None
    ) -> None:
        """`prefixes` keeps prompts from slice to slice. `on_padding` receives, for every slice, the share of
        its multiplied tokens that was padding."""
        self._prefixes = prefixes
        self._on_padding = on_padding
        self._plan = ForwardPlan(1, 1, DEFAULT_BATCH_TOKENS, DEFAULT_BATCH_TOKENS)
        self._thread_local = threading.local()

    def use(self, plan: ForwardPlan) -> None:
        self._plan = plan

    def begin(self, worker: int) -> None:
        """Place the calling thread, before its first slice."""
        workers = self._plan.workers
        one_per_core = self._plan.threads == 1 and workers == len(os.sched_getaffinity(0))
        self._thread_local.placement = Placement(worker, worker_cpus(workers)[worker], bind=one_per_core)

    def forward(self, version: LoadedVersion, samples: list[Encoded], share: int) -> list[float]:
        """Rewards in the order of `samples`, finite or not. Sequences of the same tokens are computed once.
        Uses the cores of `share` workers."""
        keys = [sample.key for sample in samples]
        distinct = dict(zip(keys, samples, strict=True))
        prefixes = self._prefixes.of(version.name) if self._prefixes else None
        placement: Placement = self._thread_local.placement
        with placement.on(self._plan.threads, share), torch.inference_mode():
            once = list(distinct.values())
            scores = version.model.scores(once, self._plan.batch_tokens, prefixes).tolist()
        self._on_padding(version.model.padding_ratio(once, self._plan.batch_tokens))
        by_key = dict(zip(distinct, scores, strict=True))
        return [by_key[key] for key in keys]


class Placement:
    """The placement of one worker thread; for use in that thread only, because torch's OpenMP threads belong to
    the thread that starts them."""

    def __init__(self, worker: int, node: Sequence[int] | None, *, bind: bool) -> None:
        """`node`: the CPUs of the worker's NUMA node; None: all CPUs. `bind`: whether each worker has one core,
        and all workers together all of them."""
        self._bind = bind
        if node is not None:
            self._restrict_to(node)
        cpus = sorted(os.sched_getaffinity(0))
        first = (os.getpid() + worker) % len(cpus)  # not every server's first worker on the same core
        self._cpus = cpus[first:] + cpus[:first]
        self._team = 1  # torch's threads: this one, and those bound to self._cpus[1:]

    @contextmanager
    def on(self, threads: int, share: int) -> Iterator[None]:
        """Run a forward in the block on `threads` cores for each of `share` workers, limited by the cores."""
        count = max(threads, min(threads * share, len(self._cpus)))
        bound = count > 1 and self._bind
        try:
            if bound:
                self._start_bound(count)
                self._restrict_to(self._cpus[:1])
            torch.set_num_threads(count)  # every time: MKL's count is not per thread
            yield
        finally:
            if bound:  # also after a failed binding
                self._restrict_to(self._cpus)

    def _start_bound(self, count: int) -> None:
        """Start the threads that torch lacks, one after the other, each on its core: a thread inherits the CPUs
        of the thread that starts it."""
        for size in range(self._team + 1, count + 1):
            self._restrict_to([self._cpus[size - 1]])
            torch.set_num_threads(size)
            torch.zeros(size * PARALLEL_WORK).add_(1)
        self._team = count  # torch ends surplus threads

    def _restrict_to(self, cpus: Sequence[int]) -> None:
        """Restrict the calling thread to `cpus`. Once the CPUs of this process have changed, no thread is
        bound."""
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            self._bind = False
            log.warning("forward threads are not bound to cores: %s: %s", sorted(cpus), error)
