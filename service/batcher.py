"""A bounded queue in front of the one forward thread: requests in, token-budgeted slices out.

Knows nothing of torch or HTTP: it is handed `score_slice`, which runs off the event loop. Every
future it gives out ends with a result or an exception, also when a slice fails or the batcher closes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from metarm.errors import NotReadyError, OverloadedError, PayloadTooLargeError


class Sized(Protocol):
    """A sequence to score; its cost is its number of tokens."""

    @property
    def ids(self) -> list[int]: ...


Model = TypeVar("Model")
Sample = TypeVar("Sample", bound=Sized)


@dataclass(slots=True)
class Pending(Generic[Model, Sample]):
    """One request: its samples, those not yet handed out, and the scores that have come back."""

    model: Model
    samples: Sequence[Sample]
    done: asyncio.Future[list[float]]
    next_index: int = 0
    scores: list[float] = field(default_factory=list)


# A request and the part of its samples that goes into one slice.
Taken = tuple[Pending[Model, Sample], Sequence[Sample]]


class Batcher(Generic[Model, Sample]):
    """Serves requests in arrival order; a slice fills up with the next requests of the same model."""

    def __init__(
        self,
        score_slice: Callable[[Model, list[Sample]], list[float]],
        *,
        slice_tokens: int,
        queue_tokens: int,
    ) -> None:
        self._score_slice = score_slice
        self._slice_tokens = slice_tokens
        self._queue_tokens = queue_tokens
        self._queue: deque[Pending[Model, Sample]] = deque()
        self._arrived = asyncio.Event()
        self._forward_thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._loop_task: asyncio.Task[None] | None = None
        self._tokens_per_s = 5000.0  # smoothed; only for Retry-After
        self.queued_tokens = 0

    def start(self) -> None:
        self._loop_task = asyncio.create_task(self._run(), name="batcher")

    async def close(self) -> None:
        """Fail what is still waiting, let the running slice end, stop the thread."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        while self._queue:
            _fail(self._queue.popleft(), NotReadyError("the server is shutting down"))
        self._forward_thread.shutdown(wait=True)

    async def score(self, model: Model, samples: Sequence[Sample]) -> list[float]:
        """Scores of `samples` by `model`, in order.

        Raises OverloadedError while the queue is full, PayloadTooLargeError for a request that would
        not fit an empty one, and whatever the forward raised.
        """
        tokens = sum(len(sample.ids) for sample in samples)
        if tokens > self._queue_tokens:
            limit = self._queue_tokens
            raise PayloadTooLargeError(
                f"{tokens} tokens in one request; at most {limit}", tokens=tokens, limit=limit
            )
        if self.queued_tokens + tokens > self._queue_tokens:
            wait_s = max(1, round(self.queued_tokens / self._tokens_per_s))
            raise OverloadedError(
                f"{self.queued_tokens} tokens are waiting already", wait_s, queued_tokens=self.queued_tokens
            )
        pending = Pending(model, samples, asyncio.get_running_loop().create_future())
        self._queue.append(pending)
        self.queued_tokens += tokens
        self._arrived.set()
        return await pending.done

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            taken = self._take_slice()
            if taken:
                await self._score(taken)
            else:
                self._arrived.clear()

    async def _score(self, taken: Sequence[Taken[Model, Sample]]) -> None:
        """Run one slice. Where it fails, each of its requests is tried alone, so that only the one at
        fault meets its error."""
        loop = asyncio.get_running_loop()
        flat = [sample for _, samples in taken for sample in samples]
        started = loop.time()
        try:
            model = taken[0][0].model
            scores = await loop.run_in_executor(self._forward_thread, self._score_slice, model, flat)
        except asyncio.CancelledError:
            for pending, _ in taken:
                _fail(pending, NotReadyError("the server is shutting down"))
            raise
        except Exception as error:  # noqa: BLE001 (whatever the forward raised goes to who waits for it)
            if len(taken) == 1:
                _fail(taken[0][0], error)
            else:
                for one in taken:
                    await self._score([one])
            return
        tokens = sum(len(sample.ids) for sample in flat)
        self._tokens_per_s += 0.1 * (tokens / max(loop.time() - started, 1e-6) - self._tokens_per_s)
        _hand_back(taken, scores)

    def _take_slice(self) -> list[Taken[Model, Sample]]:
        """The next samples in arrival order, one model's, up to the slice's tokens (at least one)."""
        taken: list[Taken[Model, Sample]] = []
        room = self._slice_tokens
        while self._queue:
            pending = self._queue[0]
            if pending.done.done():  # its caller went away, or an earlier slice of it failed
                self._leave(pending, len(pending.samples))
                continue
            if taken and pending.model is not taken[0][0].model:
                break
            end = pending.next_index
            while end < len(pending.samples) and (cost := len(pending.samples[end].ids)) <= room:
                room -= cost
                end += 1
            if end == pending.next_index and not taken:
                end += 1  # longer than a whole slice: it goes alone
                room = 0
            if end == pending.next_index:
                break
            taken.append((pending, pending.samples[pending.next_index : end]))
            self._leave(pending, end)
        return taken

    def _leave(self, pending: Pending[Model, Sample], end: int) -> None:
        """Samples up to `end` leave the queue; the last one takes the request with it."""
        self.queued_tokens -= sum(len(s.ids) for s in pending.samples[pending.next_index : end])
        pending.next_index = end
        if end == len(pending.samples):
            self._queue.popleft()


def _hand_back(taken: Sequence[Taken[Model, Sample]], scores: Sequence[float]) -> None:
    first = 0
    for pending, samples in taken:
        pending.scores += scores[first : first + len(samples)]
        first += len(samples)
        if len(pending.scores) == len(pending.samples) and not pending.done.done():
            pending.done.set_result(pending.scores)


def _fail(pending: Pending[Model, Sample], error: Exception) -> None:
    if not pending.done.done():
        pending.done.set_exception(error)
