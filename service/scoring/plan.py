"""How the forward shares out the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """`workers` threads, each of which runs batches of up to `batch_tokens` tokens on `threads` cores and takes
    up to `slice_tokens` tokens from the queue at once."""

    workers: int
    threads: int
    batch_tokens: int
    slice_tokens: int

    @classmethod
    def of_single_batches(cls, workers: int, threads: int, batch_tokens: int) -> ForwardPlan:
        """A plan whose workers take one batch from the queue at once."""
        return cls(workers, threads, batch_tokens, batch_tokens)
