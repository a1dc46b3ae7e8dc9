"""The queue of requests, and the composition of the next slice. Threads and locks belong to its owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

UNIT_SLICES = 4  # slices: samples that belong together are split beyond this many tokens
PARTS = 4  # one request takes at most this fraction of the queue's room

Model = TypeVar("Model")
Sample = TypeVar("Sample")


@dataclass(slots=True, eq=False)
class Pending(Generic[Model, Sample]):
    """One request: its samples, their costs, the tokens each shares with the one before it, the samples not yet
    taken, and the scores that have come back."""

    model: Model
    samples: Sequence[Sample]
    costs: Sequence[int]
    shared: Sequence[int]
    done: asyncio.Future[list[float]]
    left_tokens: int
    arrived_ns: int  # monotonic clock, as the next
    background: bool = False
    on_part: Callable[[range, Sequence[float]], None] = lambda _part, _scores: None
    taken_ns: int = 0  # when a worker took its first sample
    next_index: int = 0
    missing: int = 0
    scores: list[float] = field(default_factory=list)
    idle: asyncio.Future[None] | None = None  # of a cancelled request: when no worker computes it any more

    @property
    def running(self) -> int:
        """Samples that workers compute now, once the request has left the queue."""
        return self.next_index - (len(self.samples) - self.missing)

    def unit(self) -> range:
        """The next samples that belong together: one, and those that share with the one before."""
        end = self.next_index + 1
        while end < len(self.samples) and self.shared[end]:
            end += 1
        return range(self.next_index, end)


@dataclass(slots=True)
class Taken(Generic[Model, Sample]):
    """A request's part of a slice."""

    pending: Pending[Model, Sample]
    part: range

    @property
    def samples(self) -> Sequence[Sample]:
        return self.pending.samples[self.part.start : self.part.stop]


class RequestQueue(Generic[Model, Sample]):
    """The waiting requests and the order in which they are served.

    Half of every slice goes to the request that has waited longest, the rest to those with the fewest slices
    left: a large request does not hold up small ones, and they do not starve it. A slice has one model;
    models take turns.

    The room is limited. A request takes room for the tokens it has left, but never more than a part of the
    queue; what exceeds its part moves up as slices are taken. A request of any size therefore fits, and leaves
    room for others. Background work takes no room.
    """

    def __init__(self, room: int) -> None:
        """`room` in tokens."""
        self.room = room
        self._part = max(1, room // PARTS)
        self.slice_tokens = 0  # until the workers start
        self.tokens = 0  # waiting, of all requests
        self.taken_room = 0
        self.slices = 0  # taken since the start
        self.sliced_tokens = 0  # in these slices
        self._requests: list[Pending[Model, Sample]] = []  # oldest first
        self._last_model: Model | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def has_room_for(self, pending: Pending[Model, Sample]) -> bool:
        return pending.background or self.taken_room + self._room_of(pending) <= self.room

    def add(self, pending: Pending[Model, Sample]) -> None:
        self._requests.append(pending)
        self.tokens += pending.left_tokens
        self.taken_room += self._room_of(pending)

    def remove(self, pending: Pending[Model, Sample]) -> None:
        """Remove a request that nobody waits for, or that failed. Does nothing if all of it was taken."""
        if pending in self._requests:
            self._requests.remove(pending)
            self.tokens -= pending.left_tokens
            self.taken_room -= self._room_of(pending)

    def clear(self) -> list[Pending[Model, Sample]]:
        """Empty the queue; returns the requests that waited."""
        waiting, self._requests = self._requests, []
        self.tokens = self.taken_room = 0
        return waiting

    def take(self, idle: int) -> list[Taken[Model, Sample]]:
        """The next slice, of one model: at least one unit, and otherwise no more than `slice_tokens` or the
        caller's share of the waiting tokens among the `idle` workers. Empty if no request waits."""
        if not self._requests:
            return []
        # versions take turns, so that a pinned request does not wait for all requests of another version
        oldest = next((p for p in self._requests if p.model is not self._last_model), self._requests[0])
        self._last_model = oldest.model
        room = min(self.slice_tokens, -(-self.tokens // idle))
        taken = [Taken(oldest, part) for part in self._units(oldest, idle, room // 2, self.tokens)]
        tokens = sum(oldest.costs[i] for one in taken for i in one.part)
        others = [p for p in self._requests if p.model is oldest.model and p is not oldest]
        # the smallest request joins a part of the oldest that leaves no room, unless a worker is free
        alone = not others or idle > 1
        at_least = 0 if alone else max(self.slice_tokens // 2, 2 * self.slice_tokens - tokens)
        others.sort(key=lambda p: p.left_tokens // self.slice_tokens)  # of about the same size, by age
        for pending in [*others, oldest]:
            for part in self._units(pending, idle, room - tokens, at_least):
                tokens += sum(pending.costs[i] for i in part)
                taken.append(Taken(pending, part))
            if tokens >= room:
                break
            at_least = 0
        self._requests = [p for p in self._requests if p.next_index < len(p.samples)]
        self.slices += 1
        self.sliced_tokens += tokens
        return taken

    def _units(self, pending: Pending[Model, Sample], idle: int, room: int, first_room: int) -> Iterator[range]:
        """The request's next units that fit `room`; the first may instead fit `first_room`."""
        while pending.next_index < len(pending.samples):
            unit = self._part_of(pending, pending.unit(), idle)
            cost = sum(pending.costs[i] for i in unit)
            if cost > max(room, first_room):
                return
            pending.next_index = unit.stop
            pending.taken_ns = pending.taken_ns or time.monotonic_ns()
            self.taken_room -= self._room_of(pending)
            pending.left_tokens -= cost
            self.taken_room += self._room_of(pending)
            self.tokens -= cost
            room -= cost
            first_room = 0
            yield unit

    def _part_of(self, pending: Pending[Model, Sample], unit: range, idle: int) -> range:
        """The part of a unit that one slice takes: all of it, unless it is very large, or it is the last work
        while other workers are free and so large that each may compute the shared prompt again."""
        cost = sum(pending.costs[i] for i in unit)
        if cost > UNIT_SLICES * self.slice_tokens:
            return _fitting(pending, unit, self.slice_tokens)
        last = len(self._requests) == 1 and unit.stop == len(pending.samples)
        if last and idle > 1 and len(unit) > 1 and cost >= 2 * pending.shared[unit.start + 1]:
            return range(unit.start, unit.start - (-len(unit) // idle))
        return unit

    def _room_of(self, pending: Pending[Model, Sample]) -> int:
        return 0 if pending.background else min(pending.left_tokens, self._part)


def _fitting(pending: Pending[Model, Sample], unit: range, room: int) -> range:
    """The first samples of a unit that fit `room`, at least one."""
    end = unit.start + 1
    room -= pending.costs[unit.start]
    while end < unit.stop and pending.costs[end] <= room:
        room -= pending.costs[end]
        end += 1
    return range(unit.start, end)
