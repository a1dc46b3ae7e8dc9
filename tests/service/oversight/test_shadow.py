"""Groups scored by a second version through the real cache, queue and engine, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from metarm.model.reward_model import RewardModel, load_model
from metarm.runtime.loops import Loops
from metarm.store.calibration import Calibration
from metarm.store.versions import VersionStore
from service.oversight.drift import Comparison, Drift
from service.oversight.shadow import BUSY_SHARE, MOST_WAITING, POLL_S, Shadow
from service.oversight.traffic import AT_ONCE, ShadowPlan, Traffic
from service.oversight.traffic import MOST_WAITING as MOST_TRAFFIC
from service.scoring.scorer import ScoredGroup
from service.versions.live import LiveVersions, LoadedVersion
from tests.series import value_of
from tests.service.scoring.test_scorer import PROMPT, RESPONSES, Wired, poisoned, wired
from tests.tiny import Kind

Kinds = Callable[[Kind], Path]
PLAN = ShadowPlan("v000002", "v000001", 1.0)


@dataclass
class Bench:
    """A shadow scorer that sees `queued` tokens in the queue."""

    shadow: Shadow
    parts: Wired
    answering: LoadedVersion
    plans: list[ShadowPlan]
    queued: list[int]
    seen: list[tuple[str, str, Comparison]] = field(default_factory=list)

    def offer(self, *responses: str, plan: ShadowPlan = PLAN) -> None:
        encoded = self.answering.model.encoder.encode([(PROMPT, responses)])[0]
        scores = [float(place) for place in range(len(responses))]
        self.shadow.offer(ScoredGroup(PROMPT, responses, self.answering, encoded, scores, scores), plan)

    async def requests(self, tokens: int) -> None:
        """Score at least `tokens` tokens for requests."""
        encoded = self.answering.model.encoder.encode([(PROMPT, RESPONSES)])
        wanted = self.parts.scorer.scored_tokens + tokens
        while self.parts.scorer.scored_tokens < wanted:
            await self.parts.scorer.rewards(self.answering, encoded)

    def dropped(self, reason: str) -> float:
        return value_of(self.parts.metrics.drift.shadow_dropped.labels(reason))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 (the condition sets no event)
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(model: RewardModel, *, queue_tokens: int = 10**6) -> AsyncIterator[Bench]:
    async def load(name: str) -> LoadedVersion:
        return LoadedVersion(name, model, Calibration(2.0, 5.0))

    async with wired(model, entries=0) as parts:
        queued, plans = [0], [PLAN]
        seen: list[tuple[str, str, Comparison]] = []
        shadow = Shadow(
            LiveVersions(load, 2, VersionStore(Path("nowhere"))),
            parts.scorer,
            parts.metrics,
            plans=lambda: plans,
            queued_tokens=lambda: queued[0],
            queue_tokens=queue_tokens,
            on_comparison=lambda version, other, group: seen.append((version.name, other.name, group)),
        )
        async with Loops().running("shadow", shadow.process, 0):
            yield Bench(shadow, parts, LoadedVersion("v000002", model), plans, queued, seen)


def test_a_group_is_compared_with_the_scores_that_the_other_version_would_have_served(
    checkpoint: Kinds,
) -> None:
    model = load_model(checkpoint("bert"), 128)

    async def main() -> None:
        async with running(model) as bench:
            bench.offer(*RESPONSES)
            await bench.until(lambda: bool(bench.seen))
            encoded = model.encoder.encode([(PROMPT, RESPONSES)])
            (raw,) = await bench.parts.scorer.rewards(LoadedVersion("v000009", model), encoded)
            served = [2.0 * score + 5.0 for score in raw]
            expected = Comparison.of_group([0.0, 1.0, 2.0, 3.0], served)
            ((version, other, group),) = bench.seen
            assert (version, other) == ("v000002", "v000001")
            assert group == pytest.approx(expected, rel=1e-3)

    asyncio.run(main())


def test_shadow_groups_are_scored_only_when_no_request_waits(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)

    async def main() -> None:
        async with running(model) as bench:
            bench.queued[0] = 7
            for _ in range(3):
                bench.offer(*RESPONSES)
            await asyncio.sleep(0.2)
            assert (bench.seen, bench.parts.slices) == ([], [])
            bench.queued[0] = 0
            await bench.until(lambda: len(bench.seen) == 3)

    asyncio.run(main())


def test_under_constant_load_shadow_scoring_takes_a_fiftieth_of_the_scored_tokens(
    checkpoint: Kinds,
) -> None:
    model = load_model(checkpoint("bert"), 128)
    cost = sum(len(sample.ids) for sample in model.encoder.encode([(PROMPT, RESPONSES)])[0])

    async def main() -> None:
        async with running(model) as bench:
            bench.queued[0] = 7
            for _ in range(10):
                bench.offer(*RESPONSES)
            for number in range(1, 4):
                await bench.requests(int(0.7 * cost / BUSY_SHARE))
                await asyncio.sleep(5 * POLL_S)
                assert len(bench.seen) == number - 1
                await bench.requests(int(0.31 * cost / BUSY_SHARE))
                await bench.until(lambda number=number: len(bench.seen) == number)  # type: ignore[misc]
            bench.queued[0] = 0
            await bench.until(lambda: len(bench.seen) == 10)
            bench.queued[0] = 7
            bench.offer(*RESPONSES)
            await asyncio.sleep(5 * POLL_S)
            assert len(bench.seen) == 10  # groups scored while no request waited also count toward the share

    asyncio.run(main())


def test_the_most_urgent_plan_runs_first_and_each_plan_has_its_own_queue_limit(
    checkpoint: Kinds,
) -> None:
    model = load_model(checkpoint("bert"), 128)
    canary = ShadowPlan("v000002", "v000003", 1.0)

    async def main() -> None:
        async with running(model) as bench:
            bench.plans.append(canary)
            bench.queued[0] = 1
            bench.offer(*RESPONSES, plan=canary)
            await asyncio.sleep(0.05)  # it is taken from the queue and waits
            for _ in range(MOST_WAITING + 3):
                bench.offer("Yes.", "No.", plan=canary)
            assert bench.dropped("queue_full") == 3
            for _ in range(2):
                bench.offer("Yes.", "No.")
            assert bench.dropped("queue_full") == 3
            bench.queued[0] = 0
            await bench.until(lambda: len(bench.seen) >= 4)
            assert [other for _, other, _ in bench.seen[:4]] == ["v000003", "v000001", "v000001", "v000003"]

    asyncio.run(main())


def test_a_long_group_is_scored_in_small_slices(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)

    async def main() -> None:
        async with running(model, queue_tokens=8 * 60) as bench:
            bench.offer(*RESPONSES, *RESPONSES[::-1])
            await bench.until(lambda: bool(bench.seen))
            sizes = [sum(len(sample.ids) for sample in taken) for taken in bench.parts.slices]
            assert len(sizes) > 2
            assert max(sizes) <= 60

    asyncio.run(main())


def test_dropped_groups_are_counted_by_reason_and_later_groups_are_still_scored(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    token = model.encoder.tokenizer.convert_tokens_to_ids("first")
    assert isinstance(token, int)

    async def main() -> None:
        async with running(model) as bench:
            with poisoned(model, token):
                bench.offer("The first train.", "No.")
                await bench.until(lambda: bench.dropped("non_finite") == 1)
            bench.offer(*RESPONSES, plan=ShadowPlan("v000002", "v000007", 1.0))
            await bench.until(lambda: bench.dropped("no_longer_wanted") == 1)
            bench.queued[0] = 1
            bench.offer(*RESPONSES)
            await asyncio.sleep(0.05)  # it is taken from the queue and waits
            for _ in range(MOST_WAITING + 5):
                bench.offer("Yes.", "No.")
            assert bench.dropped("queue_full") == 5
            assert bench.seen == []
            bench.plans.clear()
            bench.queued[0] = 0
            await bench.until(lambda: bench.dropped("no_longer_wanted") == 1 + MOST_WAITING)
            assert len(bench.seen) == 1
            bench.plans.append(PLAN)
            bench.offer(*RESPONSES)
            await bench.until(lambda: len(bench.seen) == 2)

    asyncio.run(main())


def test_traffic_is_queued_processed_in_small_batches_and_dropped_beyond_a_limit(
    checkpoint: Kinds,
) -> None:
    model = load_model(checkpoint("bert"), 128)
    version = LoadedVersion("v000002", model)
    encoded = model.encoder.encode([(PROMPT, RESPONSES)])[0]
    scores = [0.0, 1.0, 2.0, 3.0]
    group = ScoredGroup(PROMPT, RESPONSES, version, encoded, scores, scores)
    single = ScoredGroup(PROMPT, RESPONSES[:1], version, encoded[:1], scores[:1], scores[:1])
    handed: list[ScoredGroup] = []

    async def main() -> None:
        async with wired(model) as parts:
            drift, plans = (
                Drift(50),
                [PLAN, ShadowPlan("v000009", "v000001", 1.0), ShadowPlan("v000002", "v000003", 0.0)],
            )
            traffic = Traffic(drift, parts.metrics, lambda: plans, lambda group, _: handed.append(group))
            traffic.answered([group, single] * AT_ONCE, None)
            assert drift.versions() == {}  # not within the request
            turn = asyncio.create_task(traffic.process())
            await asyncio.sleep(0)
            assert drift.versions()["v000002"].total.groups == AT_ONCE
            await turn
            assert drift.versions()["v000002"].total.groups == 2 * AT_ONCE
            assert drift.versions()["v000002"].total.compared == AT_ONCE
            assert handed == [group] * AT_ONCE  # only the compared group, and only under the first plan
            traffic.answered([group] * MOST_TRAFFIC, None)
            traffic.answered([group] * 3, None)
            assert value_of(parts.metrics.drift.traffic_dropped) == 3

    asyncio.run(main())


def test_repeated_responses_are_neither_compared_nor_scored_again(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    version = LoadedVersion("v000002", model)

    def group(*responses: str) -> ScoredGroup:
        (encoded,) = model.encoder.encode([(PROMPT, responses)])
        scores = [float(len(response)) for response in responses]
        return ScoredGroup(PROMPT, responses, version, encoded, scores, scores)

    handed: list[ScoredGroup] = []

    async def main() -> None:
        async with wired(model) as parts:
            drift = Drift(50)
            traffic = Traffic(drift, parts.metrics, lambda: [PLAN], lambda group, _: handed.append(group))
            traffic.answered([group("Yes.", "No!", "Yes.", "It is."), group(*["Yes."] * 6)], None)
            await traffic.process()
            seen = drift.versions()["v000002"]
            (given,) = handed
            assert (given.responses, given.scores) == (["Yes.", "No!", "It is."], [4.0, 3.0, 6.0])
            assert given.encoded == group(*given.responses).encoded
            assert (seen.total.groups, seen.total.responses, seen.total.compared) == (2, 10, 1)
            assert seen.total.squares == pytest.approx((1 + 4 + 9) / 3)
            assert list(seen.recent.differences) == [1.0]  # of the first two: no pair of a response with itself

    asyncio.run(main())


def test_an_error_about_one_group_leaves_the_others_for_the_next_turn(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    encoded = model.encoder.encode([(PROMPT, RESPONSES)])[0]
    scores = [0.0, 1.0, 2.0, 3.0]
    group = ScoredGroup(PROMPT, RESPONSES, LoadedVersion("v000002", model), encoded, scores, scores)
    handed: list[ScoredGroup] = []

    def fails_at_first(group: ScoredGroup, _plan: ShadowPlan) -> None:
        handed.append(group)
        if len(handed) == 1:
            raise ZeroDivisionError

    async def main() -> None:
        async with wired(model) as parts:
            traffic = Traffic(Drift(50), parts.metrics, lambda: [PLAN], fails_at_first)
            async with Loops(pause_s=0.0).running("traffic", traffic.process, 0.0):
                traffic.answered([group] * 20, None)
                async with asyncio.timeout(30):
                    while len(handed) < 20:  # noqa: ASYNC110 (the handler sets no event)
                        await asyncio.sleep(0.005)

    asyncio.run(main())
