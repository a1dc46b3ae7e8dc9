"""A bounded queue in front of the forward threads: requests in, token-budgeted slices out.

Knows nothing of torch or HTTP: it is handed `score_slice`, which runs in worker threads. A free worker
takes the next slice itself, at once: under load a slice fills while the one before runs, and waiting
for more would only delay it. Only a long request that comes to an idle server waits, some milliseconds,
for the rest of a burst, before it is split between all workers.
Every future it gives out ends with a result or an exception, also when a slice fails or the batcher
closes.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from metarm.errors import NotReadyError, OverloadedError, PayloadTooLargeError

UNIT_SLICES = 4  # samples that belong together may take as many slices' tokens before they are split
LINGER_S = 0.003  # that a lone request waits for company before it takes every core
LINGERED_S = 0.3  # by one that takes this long at least: a hundredth of it

Model = TypeVar("Model")
Sample = TypeVar("Sample")


@dataclass(slots=True, eq=False)
class Pending(Generic[Model, Sample]):
    """One request: its samples, what each costs, what each shares with the one before it, those not yet
    handed out, and the scores come back."""

    model: Model
    samples: Sequence[Sample]
    costs: Sequence[int]
    shared: Sequence[int]
    done: asyncio.Future[list[float]]
    left_tokens: int
    arrived_ns: int  # of the monotonic clock, as the next
    taken_ns: int = 0  # when a worker took the first of it
    next_index: int = 0
    missing: int = 0
    scores: list[float] = field(default_factory=list)

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


class Batcher(Generic[Model, Sample]):
    """Half of every slice goes to the request that has waited longest, the rest to those with the fewest
    slices left: neither a large request holds up small ones, nor do they starve it. One slice, one model;
    the models that wait take turns."""

    def __init__(
        self,
        score_slice: Callable[[Model, list[Sample], int], list[float]],
        *,
        queue_tokens: int,
        ran: Callable[[int, float], None] = lambda _tokens, _seconds: None,
        answered: Callable[[int, int], None] = lambda _arrived_ns, _taken_ns: None,
    ) -> None:
        """`score_slice(model, samples, share)` may use the cores of `share` workers.

        `ran` is told of every slice that was scored, in its worker's thread: its tokens and the seconds it
        took. `answered` is told of every request that was, where it waited: when it arrived, and when a worker
        took the first of it, in nanoseconds of the monotonic clock.
        """
        self._score_slice = score_slice
        self._ran = ran
        self._answered = answered
        self._slice_tokens = 0  # until started
        self._queue_tokens = queue_tokens
        self._queue: list[Pending[Model, Sample]] = []  # oldest first
        self._lock = threading.Lock()  # guards the queue and what follows
        self._idle = 0  # workers that run nothing, asleep or about to look
        self._sleeping: list[int] = []  # a heap
        self._alarms: list[threading.Condition] = []  # of each worker, on the lock
        self._last_model: Model | None = None
        self._closing = False
        self._tokens_per_s = 5000.0  # smoothed; for Retry-After, and for what is worth a wait
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.queued_tokens = 0
        self.slices = 0  # taken since the start, and the tokens in them
        self.sliced_tokens = 0

    @property
    def slice_room(self) -> int:
        """Tokens that the slices taken since the start could have held."""
        return self.slices * self._slice_tokens

    @property
    def started(self) -> bool:
        return bool(self._threads)

    def start(self, workers: int, slice_tokens: int, begin: Callable[[int], None]) -> None:
        """Start the worker threads; each calls `begin` with its number first."""
        self._slice_tokens = slice_tokens
        self._loop = asyncio.get_running_loop()
        self._alarms = [threading.Condition(self._lock) for _ in range(workers)]
        for number in range(workers):
            thread = threading.Thread(
                target=self._work, args=(number, begin), name=f"forward-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    async def close(self) -> None:
        """Fail what is still waiting, let the running slices end, stop the threads."""
        with self._lock:
            self._closing = True
            waiting, self._queue = self._queue, []
            self._wake(len(self._threads))
        for pending in waiting:
            _fail(pending, NotReadyError("the server is shutting down"))
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)  # what they handed back last

    async def score(
        self,
        model: Model,
        samples: Sequence[Sample],
        costs: Sequence[int],
        shared: Sequence[int],
        *,
        aside: bool = False,
    ) -> list[float]:
        """Scores of `samples` by `model`, in order. `costs` are tokens, without those a sample has
        `shared` with the one before: such samples go into one slice, up to a size. `aside` is work that
        bounds itself: a full queue takes it all the same.

        Raises OverloadedError while the queue is full, PayloadTooLargeError for a request that would
        not fit an empty one, and whatever the forward raised.
        """
        if not samples:
            return []
        tokens = sum(costs)
        if tokens > self._queue_tokens:
            limit = self._queue_tokens
            raise PayloadTooLargeError(
                f"{tokens} tokens in one request; at most {limit}", tokens=tokens, limit=limit
            )
        done: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        pending = Pending(model, samples, costs, shared, done, tokens, time.monotonic_ns())
        pending.missing, pending.scores = len(samples), [0.0] * len(samples)
        with self._lock:
            if self._closing:
                raise NotReadyError("the server is shutting down")
            if self.queued_tokens + tokens > self._queue_tokens and not aside:
                wait_s = max(1, round(self.queued_tokens / self._tokens_per_s))
                raise OverloadedError(
                    f"{self.queued_tokens} tokens are waiting already", wait_s, queued_tokens=self.queued_tokens
                )
            self._queue.append(pending)
            self.queued_tokens += tokens
            self._wake(len(samples))
        scores = await done
        self._answered(pending.arrived_ns, pending.taken_ns)
        return scores

    def _wake(self, count: int) -> None:
        """Wake up to `count` workers, always the same ones first: a lone request runs on all cores, and
        the threads of one worker's forward have found a core each (docs/decisions/0005)."""
        for _ in range(min(count, len(self._sleeping))):
            self._alarms[heapq.heappop(self._sleeping)].notify()

    def _work(self, number: int, begin: Callable[[int], None]) -> None:
        """A worker thread: take a slice, run it, hand the scores back to the event loop."""
        begin(number)
        while True:
            with self._lock:
                self._idle += 1
                while not (self._queue or self._closing):
                    heapq.heappush(self._sleeping, number)
                    self._alarms[number].wait()
                if self._lingers():
                    self._alarms[number].wait(LINGER_S)
                if self._closing:
                    return
                taken = self._take_slice()
                self._idle -= 1
                share = 1 if self._queue else 1 + self._idle
            if taken:
                self._run(taken, share)

    def _lingers(self) -> bool:
        """Whether a lone request is long enough to wait for others: all cores are its own else."""
        alone = len(self._queue) == 1 and self._idle == len(self._threads) > 1
        return alone and self.queued_tokens > LINGERED_S * self._tokens_per_s

    def _run(self, taken: Sequence[Taken[Model, Sample]], share: int) -> None:
        """Run one slice. Where it fails, each of its requests is tried alone, so that only the one at
        fault meets its error."""
        flat = [sample for one in taken for sample in one.samples]
        started = time.monotonic()
        try:
            scores = self._score_slice(taken[0].pending.model, flat, share)
        except Exception as error:  # noqa: BLE001 (whatever the forward raised goes to who waits for it)
            if len(taken) == 1:
                self._on_loop(_fail, taken[0].pending, error)
            else:
                for one in taken:
                    self._run([one], share)
            return
        seconds = time.monotonic() - started
        tokens = sum(one.pending.costs[i] for one in taken for i in one.part)
        self._ran(tokens, seconds)
        rate = tokens * len(self._threads) / share / max(seconds, 1e-6)
        self._tokens_per_s += 0.1 * (rate - self._tokens_per_s)
        self._on_loop(_hand_back, taken, scores)

    def _on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None  # noqa: S101 (started)
        self._loop.call_soon_threadsafe(callback, *arguments)

    def _take_slice(self) -> list[Taken[Model, Sample]]:
        """The next slice: of one model, at least one unit, split between the workers that are free."""
        self._drop_finished()
        if not self._queue:
            return []
        # versions take turns, so that a pinned request does not wait for all of another version's
        oldest = next((p for p in self._queue if p.model is not self._last_model), self._queue[0])
        self._last_model = oldest.model
        room = min(self._slice_tokens, -(-self.queued_tokens // self._idle))
        taken = [Taken(oldest, part) for part in self._units(oldest, room // 2, self._queue_tokens)]
        tokens = sum(oldest.costs[i] for one in taken for i in one.part)
        others = [p for p in self._queue if p.model is oldest.model and p is not oldest]
        # beside a part of the oldest that leaves no room, the smallest goes along, unless a worker is free
        alone = not others or self._idle > 1
        at_least = 0 if alone else max(self._slice_tokens // 2, 2 * self._slice_tokens - tokens)
        others.sort(key=lambda p: p.left_tokens // self._slice_tokens)  # of about the same size, by age
        for pending in [*others, oldest]:
            for part in self._units(pending, room - tokens, at_least):
                tokens += sum(pending.costs[i] for i in part)
                taken.append(Taken(pending, part))
            if tokens >= room:
                break
            at_least = 0
        self._queue = [p for p in self._queue if p.next_index < len(p.samples)]
        self.slices += 1
        self.sliced_tokens += tokens
        return taken

    def _units(self, pending: Pending[Model, Sample], room: int, first_room: int) -> Iterator[range]:
        """The request's next units that fit `room`, the first also where it fits `first_room`."""
        while pending.next_index < len(pending.samples):
            unit = self._part_of(pending, pending.unit())
            cost = sum(pending.costs[i] for i in unit)
            if cost > max(room, first_room):
                return
            pending.next_index = unit.stop
            pending.taken_ns = pending.taken_ns or time.monotonic_ns()
            pending.left_tokens -= cost
            self.queued_tokens -= cost
            room -= cost
            first_room = 0
            yield unit

    def _part_of(self, pending: Pending[Model, Sample], unit: range) -> range:
        """As much of a unit as one slice takes: all, unless that is very large, or the last work there is
        while other workers are free, and worth that each computes what its part shares."""
        cost = sum(pending.costs[i] for i in unit)
        if cost > UNIT_SLICES * self._slice_tokens:
            return _fitting(pending, unit, self._slice_tokens)
        last = len(self._queue) == 1 and unit.stop == len(pending.samples)
        if last and self._idle > 1 and len(unit) > 1 and cost >= 2 * pending.shared[unit.start + 1]:
            return range(unit.start, unit.start - (-len(unit) // self._idle))
        return unit

    def _drop_finished(self) -> None:
        """Leave out requests whose caller went away, or of which an earlier slice failed."""
        for pending in self._queue:
            if pending.done.done():
                self.queued_tokens -= pending.left_tokens
        self._queue = [p for p in self._queue if not p.done.done()]


def _fitting(pending: Pending[Model, Sample], unit: range, room: int) -> range:
    """The first samples of a unit that fit `room`, at least one."""
    end = unit.start + 1
    room -= pending.costs[unit.start]
    while end < unit.stop and pending.costs[end] <= room:
        room -= pending.costs[end]
        end += 1
    return range(unit.start, end)


def _hand_back(taken: Sequence[Taken[Model, Sample]], scores: Sequence[float]) -> None:
    first = 0
    for one in taken:
        pending = one.pending
        count = len(one.part)
        pending.scores[one.part.start : one.part.stop] = scores[first : first + count]
        pending.missing -= count
        first += count
        if pending.missing == 0 and not pending.done.done():
            pending.done.set_result(pending.scores)


def _fail(pending: Pending[Model, Sample], error: Exception) -> None:
    if not pending.done.done():
        pending.done.set_exception(error)
