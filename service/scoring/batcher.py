"""A bounded queue in front of the forward threads: requests in, token-budgeted slices out (request_queue.py).

It needs neither torch nor HTTP: it receives `forward`, which runs in worker threads. A free worker takes the
next slice immediately: under load a slice fills while the previous one runs, and waiting for more would only
delay it. Only a long request that arrives at an idle server waits a few milliseconds for the rest of a burst,
before it is split between all workers. Every future ends with a result or an exception, even if a slice fails
or the batcher closes. A request whose caller is cancelled leaves the queue at once: only a slice that a worker
is computing then ends for nobody.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic

from metarm.errors import NotReadyError, OverloadedError
from service.scoring.request_queue import Model, Pending, RequestQueue, Sample, Taken

LINGER_S = 0.003  # time that a lone request waits for others before it takes every core
MOST_WAIT_S = 60  # in Retry-After: later, the queue is another one
LINGERED_S = 0.3  # only a request whose forward takes at least this long waits: a hundredth of its time


class Batcher(Generic[Model, Sample]):
    """Hands slices of the request queue to worker threads, and their scores back to the requests."""

    def __init__(
        self,
        forward: Callable[[Model, list[Sample], int], list[float]],
        *,
        queue_tokens: int,
        on_slice: Callable[[int, float], None] = lambda _tokens, _seconds: None,
        on_answer: Callable[[int, int], None] = lambda _arrived_ns, _taken_ns: None,
        linger_s: float = LINGER_S,
    ) -> None:
        """`forward(model, samples, share)` may use the cores of `share` workers.

        `on_slice` receives the tokens and seconds of every slice that was scored, in its worker's thread.
        `on_answer` receives, in the task of every scored request, when it arrived and when a worker took its
        first samples, in nanoseconds of the monotonic clock.
        """
        self._forward = forward
        self._on_slice = on_slice
        self._on_answer = on_answer
        self._linger_s = linger_s
        self._queue: RequestQueue[Model, Sample] = RequestQueue(queue_tokens)
        self._lock = threading.Lock()  # guards the queue and the fields below
        self._idle = 0
        self._sleeping: list[int] = []  # a heap
        self._alarms: list[threading.Condition] = []  # one for each worker, on the lock
        self._closing = False
        self._tokens_per_s = 5000.0  # smoothed; for Retry-After and `_lingers`
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def queued_tokens(self) -> int:
        """Tokens for which requests take room in the queue (request_queue.py)."""
        return self._queue.taken_room

    @property
    def idle_workers(self) -> int:
        """Workers without a slice, asleep or about to take one."""
        return self._idle

    @property
    def sliced_tokens(self) -> int:
        """Tokens of the slices taken since the start."""
        return self._queue.sliced_tokens

    @property
    def slice_room(self) -> int:
        """Tokens that these slices could have held."""
        return self._queue.slices * self._queue.slice_tokens

    @property
    def started(self) -> bool:
        return bool(self._threads)

    def start(self, workers: int, slice_tokens: int, begin: Callable[[int], None]) -> None:
        """Start the worker threads; each calls `begin` with its number first."""
        self._queue.slice_tokens = slice_tokens
        self._loop = asyncio.get_running_loop()
        self._alarms = [threading.Condition(self._lock) for _ in range(workers)]
        for number in range(workers):
            thread = threading.Thread(
                target=self._work, args=(number, begin), name=f"forward-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    async def close(self) -> None:
        """Fail waiting requests, let the running slices end, stop the threads."""
        with self._lock:
            self._closing = True
            waiting = self._queue.clear()
            self._wake(len(self._threads))
        for pending in waiting:
            _fail(pending, NotReadyError("the server is shutting down", state="shutting_down"))
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)  # deliver their last results

    async def schedule(
        self,
        model: Model,
        samples: Sequence[Sample],
        costs: Sequence[int],
        shared: Sequence[int],
        *,
        background: bool = False,
        on_part: Callable[[range, Sequence[float]], None] = lambda _part, _scores: None,
    ) -> list[float]:
        """Scores of `samples` by `model`, in order. `costs` are tokens, without those that a sample
        has `shared` with the one before: such samples go into one slice, up to a size. `background` work is
        admitted to a full queue and takes no room in it: its caller bounds it. `on_part` receives the samples
        of each slice and their scores, on the event loop; it must not raise. A cancelled call leaves the queue
        at once, and ends when no worker computes its samples any more.

        Raises OverloadedError while the queue is full, and whatever the forward raised.
        """
        if not samples:
            return []
        done: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        arrived_ns = time.monotonic_ns()
        pending = Pending(model, samples, costs, shared, done, sum(costs), arrived_ns, background, on_part)
        pending.missing, pending.scores = len(samples), [0.0] * len(samples)
        with self._lock:
            if self._closing:
                raise NotReadyError("the server is shutting down", state="shutting_down")
            if not self._queue.has_room_for(pending):
                raise self._overloaded()
            self._queue.add(pending)
            self._wake(len(samples))
        try:
            scores = await done
        except asyncio.CancelledError:
            with self._lock:
                self._queue.remove(pending)
            if pending.running:
                pending.idle = asyncio.get_running_loop().create_future()
                await pending.idle
            raise
        self._on_answer(pending.arrived_ns, pending.taken_ns)
        return scores

    def _overloaded(self) -> OverloadedError:
        """The refusal of a full queue, with the time that the requests in it take."""
        tokens, room = self._queue.tokens, self._queue.room
        wait_s = min(MOST_WAIT_S, max(1, math.ceil(tokens / self._tokens_per_s)))
        return OverloadedError(
            f"the queue is full: {tokens} tokens wait, and it has room for {room} (METARM_QUEUE_TOKENS): "
            f"retry in {wait_s} s",
            retry_after_s=wait_s,
            queued_tokens=tokens,
            limit=room,
        )

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
                    self._alarms[number].wait(self._linger_s)
                if self._closing:
                    return
                taken = self._queue.take(self._idle)
                self._idle -= 1
                share = 1 if self._queue else 1 + self._idle
            if taken:
                self._run(taken, share)

    def _lingers(self) -> bool:
        """Whether a lone request is long enough to wait for others before it takes all cores."""
        alone = len(self._queue) == 1 and self._idle == len(self._threads) > 1
        return alone and self._queue.tokens > LINGERED_S * self._tokens_per_s

    def _run(self, taken: Sequence[Taken[Model, Sample]], share: int) -> None:
        """Run one slice. If it fails, run each of its requests alone, so that only the faulty one gets the
        error."""
        flat = [sample for one in taken for sample in one.samples]
        started = time.monotonic()
        try:
            scores = self._forward(taken[0].pending.model, flat, share)
        except Exception as error:  # noqa: BLE001 (any error of the forward reaches the request)
            if len(taken) == 1:
                with self._lock:
                    self._queue.remove(taken[0].pending)
                self._call_on_event_loop(_fail_slice, taken[0], error)
            else:
                for one in taken:
                    self._run([one], share)
            return
        seconds = time.monotonic() - started
        tokens = sum(one.pending.costs[i] for one in taken for i in one.part)
        self._on_slice(tokens, seconds)
        rate = tokens * len(self._threads) / share / max(seconds, 1e-6)
        self._tokens_per_s += 0.1 * (rate - self._tokens_per_s)
        self._call_on_event_loop(_deliver, taken, scores)

    def _call_on_event_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None  # noqa: S101 (started)
        self._loop.call_soon_threadsafe(callback, *arguments)


def _deliver(taken: Sequence[Taken[Model, Sample]], scores: Sequence[float]) -> None:
    first = 0
    for one in taken:
        pending = one.pending
        count = len(one.part)
        part = scores[first : first + count]
        pending.scores[one.part.start : one.part.stop] = part
        pending.on_part(one.part, part)
        pending.missing -= count
        first += count
        if pending.missing == 0 and not pending.done.done():
            pending.done.set_result(pending.scores)
        _note_idle(pending)


def _fail_slice(one: Taken[Model, Sample], error: Exception) -> None:
    one.pending.missing -= len(one.part)
    _fail(one.pending, error)
    _note_idle(one.pending)


def _note_idle(pending: Pending[Model, Sample]) -> None:
    if pending.idle and not pending.idle.done() and not pending.running:
        pending.idle.set_result(None)


def _fail(pending: Pending[Model, Sample], error: Exception) -> None:
    if not pending.done.done():
        pending.done.set_exception(error)
