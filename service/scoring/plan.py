"""A forward plan: how many workers, cores for each, and tokens in a batch and in a slice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """`workers` threads, each of which takes slices of up to `slice_tokens` tokens from the queue and runs them
    in batches of up to `batch_tokens` tokens on `threads` cores."""

    workers: int
    threads: int
    batch_tokens: int
    slice_tokens: int

    @classmethod
    def of_single_batches(cls, workers: int, threads: int, batch_tokens: int) -> ForwardPlan:
        """A plan whose slices are single batches."""
        return cls(workers, threads, batch_tokens, batch_tokens)
