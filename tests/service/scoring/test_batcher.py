"""The batcher alone, with real threads and score functions in plain Python."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarm.errors import NotReadyError, OverloadedError
from service.scoring.batcher import LINGER_S, MOST_WAIT_S, Batcher
from service.scoring.request_queue import UNIT_SLICES

PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    request: str
    index: int
    cost: int = 10
    joined: bool = False
    faulty: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    name: str


@dataclass(frozen=True, slots=True)
class Slice:
    model: Model
    samples: list[Sample]
    share: int

    @property
    def tokens(self) -> int:
        return sum(sample.cost for sample in self.samples)

    def of(self, request: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.request == request]


class FaultyError(Exception):
    """Raised by the forward for a faulty sample."""


class Forward:
    """A score function that records its slices. If `held`, each slice waits until it is released."""

    def __init__(self, *, held: bool = False) -> None:
        self.slices: list[Slice] = []
        self._lock = threading.Lock()
        self._permits = threading.Semaphore(0)
        self._held = held

    def __call__(self, model: Model, samples: list[Sample], share: int) -> list[float]:
        with self._lock:
            self.slices.append(Slice(model, list(samples), share))
        if self._held:
            assert self._permits.acquire(timeout=PATIENCE_S)
        for sample in samples:
            if sample.faulty:
                raise FaultyError(sample.request)
        return [answer(model, sample) for sample in samples]

    def release(self, count: int = 1) -> None:
        self._permits.release(count)

    def release_all(self) -> None:
        self._held = False
        self._permits.release(1000)

    async def next_slice(self) -> Slice:
        """Release the held slice and return the slice that a worker takes next."""
        before = len(self.slices)
        self.release()
        await until(lambda: len(self.slices) > before)
        return self.slices[before]

    @property
    def scored(self) -> list[Sample]:
        return [sample for part in self.slices for sample in part.samples]


MODEL = Model("v000001")
OTHER = Model("v000002")


def answer(model: Model, sample: Sample) -> float:
    """A score that is unique for every sample and model."""
    return sum(map(ord, model.name + sample.request)) + sample.index / 1000


def samples_of(request: str, count: int, cost: int = 10) -> list[Sample]:
    return [Sample(request, index, cost) for index in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (worker threads set no event)
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(
    forward: Forward,
    *,
    workers: int = 1,
    slice_tokens: int = 100,
    queue_tokens: int = 10**6,
    linger_s: float = LINGER_S,
) -> AsyncIterator[Batcher[Model, Sample]]:
    """A batcher whose workers are all idle."""
    batcher: Batcher[Model, Sample] = Batcher(forward, queue_tokens=queue_tokens, linger_s=linger_s)
    begun: list[int] = []
    batcher.start(workers, slice_tokens, begun.append)
    await until(lambda: batcher.idle_workers == workers)
    assert sorted(begun) == list(range(workers))
    try:
        yield batcher
    finally:
        forward.release_all()
        await batcher.close()


def scores(
    batcher: Batcher[Model, Sample],
    samples: Sequence[Sample],
    model: Model = MODEL,
    *,
    background: bool = False,
) -> Awaitable[list[float]]:
    costs, shared = [s.cost for s in samples], [s.joined for s in samples]
    return batcher.schedule(model, samples, costs, shared, background=background)


async def send(
    batcher: Batcher[Model, Sample], samples: Sequence[Sample], model: Model = MODEL
) -> asyncio.Task[list[float]]:
    """Send a request. It is in the queue, or already taken from it, when this returns."""
    task: asyncio.Task[list[float]] = asyncio.ensure_future(scores(batcher, samples, model))
    await asyncio.sleep(0)
    return task


async def occupy_worker(batcher: Batcher[Model, Sample], forward: Forward) -> asyncio.Task[list[float]]:
    """Keep the only worker busy, so that the following requests wait together."""
    task = await send(batcher, samples_of("plug", 1))
    await until(lambda: len(forward.slices) == 1)
    return task


def expected(samples: Sequence[Sample], model: Model = MODEL) -> list[float]:
    return [answer(model, sample) for sample in samples]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_request_gets_its_own_scores_in_order(workers: int) -> None:
    async def main() -> None:
        forward = Forward()
        async with running(forward, workers=workers) as batcher:
            requests = [samples_of(f"r{number}", 1 + number * 7 % 23, 1 + number % 40) for number in range(200)]
            answers = await asyncio.gather(*(scores(batcher, samples) for samples in requests))
            assert answers == [expected(samples) for samples in requests]
            assert Counter(forward.scored) == Counter(sample for samples in requests for sample in samples)
            assert batcher.queued_tokens == 0

    asyncio.run(main())


def test_waiting_requests_share_slices() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            tasks = [await send(batcher, samples_of(f"r{number}", 1)) for number in range(25)]
            forward.release_all()
            await asyncio.gather(*tasks)
            assert [part.tokens for part in forward.slices] == [10, 100, 100, 50]

    asyncio.run(main())


def test_a_small_request_does_not_wait_for_large_ones() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            for number in range(50):
                await send(batcher, samples_of(f"large{number}", 64))
            small = await send(batcher, samples_of("small", 1))
            assert (await forward.next_slice()).of("small")
            await forward.next_slice()
            assert await small == expected(samples_of("small", 1))

    asyncio.run(main())


@pytest.mark.parametrize("joined", [False, True])
def test_a_request_that_fills_more_than_half_a_slice_does_not_wait_for_large_ones(joined: bool) -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            for number in range(50):
                await send(batcher, samples_of(f"large{number}", 64, cost=60))
            small = joined_samples("small", 4, 30) if joined else samples_of("small", 1, cost=60)
            await send(batcher, small)
            assert (await forward.next_slice()).of("small") == small

    asyncio.run(main())


def test_a_small_request_for_another_model_does_not_wait_for_large_ones() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            for number in range(50):
                await send(batcher, samples_of(f"large{number}", 64))
            await send(batcher, samples_of("small", 1), OTHER)
            first_two = [await forward.next_slice() for _ in range(2)]
            assert any(part.of("small") for part in first_two)

    asyncio.run(main())


def test_a_slice_holds_at_most_one_large_unit() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            groups = [joined_samples(f"group{number}", 4, cost=70) for number in range(3)]
            for group in groups:
                await send(batcher, group)
            await send(batcher, samples_of("small", 1, cost=50))
            assert (await forward.next_slice()).samples == groups[0] + samples_of("small", 1, cost=50)
            assert [(await forward.next_slice()).samples for _ in range(2)] == groups[1:]

    asyncio.run(main())


@pytest.mark.parametrize(("shared", "parts"), [(20, [3, 3]), (70, [6])])
def test_the_last_unit_is_split_between_idle_workers_if_splitting_is_cheaper(
    shared: int, parts: list[int]
) -> None:
    async def main() -> None:
        forward = Forward()
        async with running(forward, workers=2) as batcher:
            samples = samples_of("group", 6)
            costs = [shared + 10, *[10] * 5]
            found = await batcher.schedule(MODEL, samples, costs, [0, *[shared] * 5])
            assert found == expected(samples)
            assert sorted(len(part.samples) for part in forward.slices) == parts

    asyncio.run(main())


def test_a_long_request_lingers_for_the_rest_of_a_burst() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward, workers=2, slice_tokens=2000, linger_s=2.0) as batcher:
            groups = [joined_samples(name, 4, cost=1000) for name in ("first", "second")]
            await send(batcher, groups[0])
            await asyncio.sleep(0.05)
            await send(batcher, groups[1])
            await until(lambda: len(forward.slices) == 2)
            assert sorted((part.samples for part in forward.slices), key=groups.index) == groups

    asyncio.run(main())


def test_a_short_request_does_not_linger() -> None:
    async def main() -> None:
        async with (
            running(Forward(), workers=2, linger_s=PATIENCE_S) as batcher,
            asyncio.timeout(PATIENCE_S / 2),
        ):
            assert await scores(batcher, samples_of("short", 3)) == expected(samples_of("short", 3))

    asyncio.run(main())


def test_the_oldest_request_progresses_while_small_requests_keep_arriving() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            large = await send(batcher, samples_of("large", 50))
            for turn in range(10):
                for number in range(10):  # a full slice each time
                    await send(batcher, samples_of(f"small{turn}-{number}", 1))
                part = await forward.next_slice()
                assert len(part.of("large")) == 5  # half of the slice
                assert part.tokens == 100
            await forward.next_slice()
            assert await large == expected(samples_of("large", 50))

    asyncio.run(main())


def test_requests_with_fewer_slices_left_run_before_larger_earlier_requests() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            for name, count in (("oldest", 64), ("larger", 20), ("small", 4), ("smaller", 2)):
                await send(batcher, samples_of(name, count))
            assert Counter(s.request for s in (await forward.next_slice()).samples) == {
                "oldest": 5,
                "small": 4,  # both small requests need less than a slice, and this one came first
                "smaller": 1,
            }
            assert Counter(s.request for s in (await forward.next_slice()).samples) == {
                "oldest": 5,
                "smaller": 1,
                "larger": 4,
            }

    asyncio.run(main())


def test_a_lone_waiting_request_gets_the_whole_slice() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            await send(batcher, samples_of("only", 24))
            assert [len((await forward.next_slice()).samples) for _ in range(3)] == [10, 10, 4]

    asyncio.run(main())


def test_a_slice_never_mixes_models() -> None:
    async def main() -> None:
        forward = Forward()
        async with running(forward, workers=2) as batcher:
            requests = [(samples_of(f"r{n}", 1 + n % 9), (MODEL, OTHER)[n % 3 == 0]) for n in range(120)]
            answers = await asyncio.gather(*(scores(batcher, samples, model) for samples, model in requests))
            assert answers == [expected(samples, model) for samples, model in requests]
            model_of = {samples[0].request: model for samples, model in requests}
            for part in forward.slices:
                assert {model_of[sample.request] for sample in part.samples} == {part.model}

    asyncio.run(main())


def test_a_slice_never_mixes_equal_but_distinct_model_objects() -> None:
    """A version that was dropped and loaded again is a different object."""

    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            for number in range(4):
                await send(batcher, samples_of(f"r{number}", 1), Model("v000001"))
            assert [len((await forward.next_slice()).samples) for _ in range(4)] == [1, 1, 1, 1]

    asyncio.run(main())


def joined_samples(request: str, count: int, cost: int) -> list[Sample]:
    return [Sample(request, index, cost, joined=index > 0) for index in range(count)]


def test_the_samples_of_a_unit_stay_in_one_slice() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            two_groups = [
                *joined_samples("groups", 6, 10),
                Sample("groups", 6),
                Sample("groups", 7, joined=True),
            ]
            await send(batcher, two_groups)
            await send(batcher, samples_of("small", 3))
            first = await forward.next_slice()
            assert first.of("groups") == two_groups[:6]
            assert first.of("small") == samples_of("small", 3)
            assert (await forward.next_slice()).samples == two_groups[6:]

    asyncio.run(main())


def test_a_unit_may_exceed_a_slice_by_a_bounded_factor_and_is_split_beyond_it() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            whole = joined_samples("whole", UNIT_SLICES * 10, 10)
            await send(batcher, whole)
            assert (await forward.next_slice()).samples == whole
            large = joined_samples("large", UNIT_SLICES * 10 + 5, 10)
            await send(batcher, large)
            assert (await forward.next_slice()).samples == large[:10]  # as many as fit into a slice
            assert (await forward.next_slice()).samples == large[10:]  # the rest is now small enough

    asyncio.run(main())


def test_a_sample_larger_than_a_slice_is_scored_alone() -> None:
    async def main() -> None:
        forward = Forward()
        async with running(forward, slice_tokens=10) as batcher:
            samples = samples_of("huge", 3, cost=500)
            assert await scores(batcher, samples) == expected(samples)
            assert [part.samples for part in forward.slices] == [[sample] for sample in samples]

    asyncio.run(main())


def test_a_lone_request_is_split_over_the_idle_workers() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward, workers=4, slice_tokens=1000) as batcher:
            samples = samples_of("lone", 8)
            task = await send(batcher, samples)
            await until(lambda: len(forward.slices) == 4)  # concurrently: none is released yet
            assert sorted(len(part.samples) for part in forward.slices) == [2, 2, 2, 2]
            assert [part.share for part in forward.slices] == [1, 1, 1, 1]
            forward.release_all()
            assert await task == expected(samples)

    asyncio.run(main())


def test_a_lone_slice_may_use_the_cores_of_idle_workers() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward, workers=3) as batcher:
            for number in range(3):
                await send(batcher, samples_of(f"r{number}", 1))
                await until(lambda n=number: len(forward.slices) > n)  # type: ignore[misc]
            assert [part.share for part in forward.slices] == [3, 2, 1]

    asyncio.run(main())


def test_a_failed_slice_fails_only_the_request_at_fault() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            plugged = await occupy_worker(batcher, forward)
            good = [await send(batcher, samples_of(f"good{number}", 1)) for number in range(4)]
            bad = await send(batcher, [Sample("bad", 0), Sample("bad", 1, faulty=True)])
            forward.release_all()
            with pytest.raises(FaultyError, match="bad"):
                await bad
            for number, task in enumerate(good):
                assert await task == expected(samples_of(f"good{number}", 1))
            await plugged
            await until(lambda: batcher.queued_tokens == 0)
            assert await scores(batcher, samples_of("later", 3)) == expected(samples_of("later", 3))

    asyncio.run(main())


def test_the_rest_of_a_failed_request_is_not_scored() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            samples = [Sample("bad", 0, faulty=True), *samples_of("bad", 60)[1:]]
            task = await send(batcher, samples)
            await until(lambda: len(forward.slices) == 1)
            taken = forward.slices[0].samples
            assert taken == samples[:10]
            assert (await forward.next_slice()).samples == samples[:1]  # retried alone
            forward.release()
            with pytest.raises(FaultyError):
                await task
            forward.release_all()
            await scores(batcher, samples_of("later", 1))
            assert set(forward.scored) - set(taken) == set(samples_of("later", 1))
            assert batcher.queued_tokens == 0

    asyncio.run(main())


@pytest.mark.parametrize("workers", [1, 3])
def test_every_request_completes_when_many_fail(workers: int) -> None:
    async def main() -> None:
        forward = Forward()
        async with running(forward, workers=workers) as batcher:
            requests = [
                [Sample(f"r{n}", index, faulty=n % 5 == 0 and index == n % 7) for index in range(1 + n % 12)]
                for n in range(150)
            ]
            tasks = [scores(batcher, samples) for samples in requests]
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for samples, got in zip(requests, answers, strict=True):
                if any(sample.faulty for sample in samples):
                    assert isinstance(got, FaultyError)
                    assert str(got) == samples[0].request
                else:
                    assert got == expected(samples)
            await until(lambda: batcher.queued_tokens == 0)

    asyncio.run(main())


def test_a_cancelled_request_is_not_scored_and_leaves_the_queue() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            await occupy_worker(batcher, forward)
            gone = await send(batcher, samples_of("gone", 30))
            stays = await send(batcher, samples_of("stays", 1))
            assert batcher.queued_tokens == 310
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            assert batcher.queued_tokens == 10  # at once, while no worker takes a slice
            forward.release_all()
            assert await stays == expected(samples_of("stays", 1))
            assert batcher.queued_tokens == 0
            assert not [sample for sample in forward.scored if sample.request == "gone"]

    asyncio.run(main())


def test_a_request_cancelled_while_running_is_not_scored_further() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward) as batcher:
            gone = await send(batcher, samples_of("gone", 30))
            await until(lambda: len(forward.slices) == 1)
            gone.cancel()
            stays = await send(batcher, samples_of("stays", 1))
            assert not gone.done()  # it ends with its slice
            forward.release_all()
            await stays
            await asyncio.gather(gone, return_exceptions=True)
            assert gone.cancelled()
            assert [part.samples for part in forward.slices] == [samples_of("gone", 10), samples_of("stays", 1)]
            assert batcher.queued_tokens == 0

    asyncio.run(main())


def test_the_scores_of_a_cancelled_request_of_slices_that_ran_still_arrive() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        samples, arrived = samples_of("gone", 30), dict[int, float]()
        async with running(forward) as batcher:
            gone = asyncio.ensure_future(
                batcher.schedule(
                    MODEL,
                    samples,
                    [10] * 30,
                    [0] * 30,
                    on_part=lambda part, scores: arrived.update(zip(part, scores, strict=True)),
                )
            )
            await until(lambda: len(forward.slices) == 1)
            await forward.next_slice()
            await until(lambda: len(arrived) == 10)
            gone.cancel()
            await asyncio.sleep(0)
            assert batcher.queued_tokens == 0
            forward.release()
            await asyncio.gather(gone, return_exceptions=True)
            assert len(arrived) == 20
        assert arrived == dict(enumerate(expected(samples[:20])))

    asyncio.run(main())


def test_a_full_queue_refuses_requests_with_a_retry_delay() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward, queue_tokens=1000) as batcher:
            await occupy_worker(batcher, forward)
            waiting = [await send(batcher, samples_of(f"waiting {n}", 19)) for n in range(5)]
            with pytest.raises(OverloadedError, match="METARM_QUEUE_TOKENS") as refused:
                await scores(batcher, samples_of("late", 6))
            assert refused.value.retry_after_s == 1
            assert refused.value.details == {"retry_after_s": 1, "queued_tokens": 950, "limit": 1000}
            fits = await send(batcher, samples_of("fits", 5))
            forward.release_all()
            assert await fits == expected(samples_of("fits", 5))
            await asyncio.gather(*waiting)
            assert await scores(batcher, samples_of("late", 6)) == expected(samples_of("late", 6))
            assert not [s for s in forward.scored if s.request == "late"][6:]

    asyncio.run(main())


def test_background_work_is_admitted_to_a_full_queue_and_takes_no_room_in_it() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward, queue_tokens=1000) as batcher:
            await occupy_worker(batcher, forward)
            background = asyncio.ensure_future(scores(batcher, samples_of("beside", 500), background=True))
            waiting = [await send(batcher, samples_of(f"waiting {n}", 25)) for n in range(4)]
            assert batcher.queued_tokens == 1000
            with pytest.raises(OverloadedError):
                await scores(batcher, samples_of("late", 1))
            more = asyncio.ensure_future(scores(batcher, samples_of("more", 5), background=True))
            await asyncio.sleep(0)
            forward.release_all()
            assert await background == expected(samples_of("beside", 500))
            assert await more == expected(samples_of("more", 5))
            await asyncio.gather(*waiting)

    asyncio.run(main())


@pytest.mark.parametrize("queue_tokens", [1, 3, 50, 1000])
@pytest.mark.parametrize("joined", [False, True])
def test_a_request_of_any_size_is_scored_through_a_queue_of_any_size(queue_tokens: int, joined: bool) -> None:
    huge = [Sample("huge", index, 10, joined and index % 50 > 0) for index in range(500)]

    async def main() -> None:
        forward = Forward()
        async with running(forward, queue_tokens=queue_tokens, workers=2) as batcher:
            async with asyncio.timeout(PATIENCE_S):
                assert await scores(batcher, huge) == expected(huge)
            assert batcher.queued_tokens == 0
        assert Counter(forward.scored) == Counter(huge)

    asyncio.run(main())


def test_a_request_larger_than_the_queue_leaves_room_for_others_and_does_not_hold_them_up() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward, queue_tokens=1000) as batcher:
            huge = await send(batcher, samples_of("huge", 1000))
            await until(lambda: len(forward.slices) == 1)
            assert batcher.queued_tokens == 250
            small = await send(batcher, samples_of("small", 5))
            assert batcher.queued_tokens == 300
            part = await forward.next_slice()
            assert len(part.of("small")) == len(part.of("huge")) == 5  # half of the slice each
            forward.release_all()
            assert await small == expected(samples_of("small", 5))
            assert await huge == expected(samples_of("huge", 1000))
        full = [part for part in forward.slices if not part.of("small")]
        assert all(part.tokens == 100 for part in full[:-1])  # the workers find whole slices to the end

    asyncio.run(main())


def test_a_refused_request_is_told_the_time_that_all_waiting_tokens_take_up_to_a_minute() -> None:
    async def main() -> None:
        forward = Forward(held=True)
        async with running(forward, queue_tokens=1000) as batcher:
            await occupy_worker(batcher, forward)
            waiting = [await send(batcher, samples_of(f"waiting {n}", 1250)) for n in range(4)]
            with pytest.raises(OverloadedError) as refused:
                await scores(batcher, samples_of("late", 25))
            assert refused.value.retry_after_s == 10  # 50,000 tokens; a new server assumes 5000 a second
            waiting[0].cancel()
            await asyncio.gather(waiting[0], return_exceptions=True)
            waiting[0] = await send(batcher, samples_of("longer", 125_000))
            with pytest.raises(OverloadedError) as refused:
                await scores(batcher, samples_of("late", 25))
            assert refused.value.retry_after_s == MOST_WAIT_S
            for task in waiting:
                task.cancel()

    asyncio.run(main())


def test_a_request_without_samples_returns_no_scores() -> None:
    async def main() -> None:
        async with running(Forward()) as batcher:
            assert await scores(batcher, []) == []

    asyncio.run(main())


def test_requests_queued_before_the_workers_start_are_scored() -> None:
    async def main() -> None:
        forward = Forward()
        batcher: Batcher[Model, Sample] = Batcher(forward, queue_tokens=1000)
        early = await send(batcher, samples_of("early", 3))
        batcher.start(2, 100, lambda _: None)
        assert batcher.started
        assert await early == expected(samples_of("early", 3))
        await batcher.close()

    asyncio.run(main())


def test_each_worker_calls_begin_in_its_own_thread() -> None:
    async def main() -> None:
        begun: dict[int, str] = {}
        batcher: Batcher[Model, Sample] = Batcher(Forward(), queue_tokens=1000)
        batcher.start(3, 100, lambda number: begun.update({number: threading.current_thread().name}))
        await until(lambda: len(begun) == 3)
        assert begun == {number: f"forward-{number}" for number in range(3)}
        await batcher.close()

    asyncio.run(main())


@pytest.mark.parametrize("workers", [1, 3])
def test_closing_fails_waiting_requests_finishes_running_slices_and_leaves_no_thread(workers: int) -> None:
    async def main() -> None:
        forward = Forward(held=True)
        batcher: Batcher[Model, Sample] = Batcher(forward, queue_tokens=10**6)
        batcher.start(workers, 100, lambda _: None)
        runs = []
        for number in range(workers):
            runs.append(await send(batcher, samples_of(f"runs{number}", 1)))
            await until(lambda n=number: len(forward.slices) == n + 1)  # type: ignore[misc]
        waits = [await send(batcher, samples_of(f"waits{number}", 40)) for number in range(3)]
        closing = asyncio.ensure_future(batcher.close())
        for task in waits:
            with pytest.raises(NotReadyError, match="shutting down"):
                await task
        assert not closing.done()
        forward.release_all()
        await closing
        for number, task in enumerate(runs):
            assert await task == expected(samples_of(f"runs{number}", 1))
        assert len(forward.slices) == workers
        with pytest.raises(NotReadyError):
            await scores(batcher, samples_of("late", 1))

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("forward-")]


def test_a_batcher_that_never_started_can_be_closed() -> None:
    batcher: Batcher[Model, Sample] = Batcher(Forward(), queue_tokens=1000)
    assert not batcher.started
    asyncio.run(batcher.close())


costs = st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=12)
workloads = st.lists(st.tuples(st.sampled_from([MODEL, OTHER]), costs, st.booleans()), min_size=1, max_size=15)


@given(workloads, st.integers(1, 4), st.integers(1, 120))
@settings(deadline=None, max_examples=60)
def test_any_workload_is_scored_exactly_once_in_slices_within_the_limits(
    workload: list[tuple[Model, list[tuple[int, bool]], bool]], workers: int, slice_tokens: int
) -> None:
    async def main() -> None:
        forward = Forward()
        async with running(forward, workers=workers, slice_tokens=slice_tokens) as batcher:
            requests = [
                (
                    model,
                    [Sample(f"r{n}", i, cost, joined and i > 0) for i, (cost, joined) in enumerate(costs)],
                )
                for n, (model, costs, _) in enumerate(workload)
            ]
            tasks = []
            for (model, samples), (_, _, pause) in zip(requests, workload, strict=True):
                tasks.append(await send(batcher, samples, model))
                if pause:
                    await asyncio.sleep(0.0005)
            async with asyncio.timeout(PATIENCE_S):
                answers = await asyncio.gather(*tasks)
            assert answers == [expected(samples, model) for model, samples in requests]
            assert batcher.queued_tokens == 0
        assert Counter(forward.scored) == Counter(sample for _, samples in requests for sample in samples)
        for part in forward.slices:
            # only the oldest request and the one with the least left may exceed the slice by one unit
            names = list(dict.fromkeys(sample.request for sample in part.samples))
            assert part.tokens <= slice_tokens or len(names) <= 2
            for name in names:
                samples = part.of(name)
                tokens = sum(sample.cost for sample in samples)
                if tokens > slice_tokens:  # a single unit within its limit
                    assert all(sample.joined for sample in samples[1:])
                    assert tokens <= UNIT_SLICES * slice_tokens or len(samples) == 1

    asyncio.run(main())
