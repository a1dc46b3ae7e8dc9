"""Where the threads of one worker's forward run.

The kernel often leaves a woken thread on the core of the thread that woke it, though another core is idle: a
lone text on two cores took .17 to .27 ms a token, and .16 to .18 with a thread bound to each core. Where there
are as many workers as cores, a forward that also has the cores of idle workers therefore binds a thread to
each. The kernel places all others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

log = logging.getLogger(__name__)

PARALLEL_WORK = 1 << 16  # elements a thread that make torch use every thread it may


class Placement:
    """The placement of one worker thread, used in that thread alone: torch's OpenMP threads belong to the
    thread that starts them."""

    def __init__(self, worker: int, node: Sequence[int] | None, *, bind: bool) -> None:
        """`node`: the CPUs of the NUMA node the worker is to keep to, None for all it may use. `bind`:
        whether each worker has one core, and all workers together all of them."""
        self._bind = bind
        if node is not None:
            self._keep_to(node)
        cpus = sorted(os.sched_getaffinity(0))
        first = (os.getpid() + worker) % len(cpus)  # not every server's first worker on the same core
        self._cpus = cpus[first:] + cpus[:first]
        self._team = 1  # threads torch has here, this one and those bound to self._cpus[1:]

    @contextmanager
    def on(self, threads: int, share: int) -> Iterator[None]:
        """A forward on `threads` cores for each of `share` workers, as far as there are cores."""
        count = max(threads, min(threads * share, len(self._cpus)))
        bound = count > 1 and self._bind
        try:
            if bound:
                self._start_bound(count)
                self._keep_to(self._cpus[:1])
            torch.set_num_threads(count)  # every time: MKL's count is not the thread's own
            yield
        finally:
            if bound:  # also after a failed binding
                self._keep_to(self._cpus)

    def _start_bound(self, count: int) -> None:
        """Start the threads that torch lacks, one after the other, each on its core: a thread keeps to
        the CPUs that the one which started it was kept to."""
        for size in range(self._team + 1, count + 1):
            self._keep_to([self._cpus[size - 1]])
            torch.set_num_threads(size)
            torch.zeros(size * PARALLEL_WORK).add_(1)
        self._team = count  # torch ends the others of a larger team

    def _keep_to(self, cpus: Sequence[int]) -> None:
        """Keep the calling thread to `cpus`. Once the CPUs of this process have changed, no thread is bound."""
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            self._bind = False
            log.warning("forward threads are not bound to cores: %s: %s", sorted(cpus), error)
