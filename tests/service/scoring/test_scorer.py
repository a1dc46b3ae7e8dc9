"""Encoded groups through the real cache, queue and engine, without HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from metarm.errors import NonFiniteScoreError, NotReadyError, PayloadTooLargeError
from metarm.model.encoding import Encoded, Encoder, Portion
from metarm.model.forward import PrefixCache
from metarm.model.portions import Group as TextGroup
from metarm.model.reward_model import RewardModel, load_model
from metarm.store.origin import TextRules
from service.scoring.batcher import Batcher
from service.scoring.engine import Engine
from service.scoring.plan import ForwardPlan
from service.scoring.scorer import Group, Scorer
from service.telemetry.metrics import Metrics
from service.versions.live import LoadedVersion
from tests.metarm.model.forward.networks import plain_scores
from tests.processes import wait_until
from tests.series import value_of
from tests.service.scoring.test_batcher import until
from tests.tiny import Kind

Kinds = Callable[[Kind], Path]
PROMPT = "Rosa buys eight pencils at seven coins each and pays with one hundred coins. What is left?"
RESPONSES = ["It is forty two.", "The first train.", "", "A longer response says more words."]


@dataclass(frozen=True, slots=True)
class Wired:
    scorer: Scorer
    batcher: Batcher[LoadedVersion, Encoded]
    metrics: Metrics
    plans: list[RewardModel]  # the models for which a plan was chosen
    slices: list[list[Encoded]]
    released: threading.Semaphore  # slices that may run, if they are held

    def counted(self, result: str) -> float:
        return value_of(self.metrics.score_cache.labels(result))


@asynccontextmanager
async def wired(
    model: RewardModel,
    *,
    entries: int = 100,
    slice_tokens: int = 100,
    held: bool = False,
    max_request_chars: int = 2**24,
) -> AsyncIterator[Wired]:
    metrics, slices, released = Metrics(), [], threading.Semaphore(0)
    plans: list[RewardModel] = []
    engine = Engine(PrefixCache(10**8))

    def forward(version: LoadedVersion, samples: list[Encoded], share: int) -> list[float]:
        slices.append(samples)
        if held:
            assert released.acquire(timeout=20)
        return engine.forward(version, samples, share)

    def choose(model: RewardModel) -> ForwardPlan:
        plans.append(model)
        return ForwardPlan(1, 1, 1000, slice_tokens)

    batcher: Batcher[LoadedVersion, Encoded] = Batcher(forward, queue_tokens=10**6)
    scorer = Scorer(engine, batcher, entries, metrics, choose, max_request_chars=max_request_chars)
    async with scorer.running():
        scorer.prepare(model)
        yield Wired(scorer, batcher, metrics, plans, slices, released)


def groups_of(model: RewardModel, *groups: Sequence[str]) -> list[list[Encoded]]:
    """Encode groups, each with a different prompt."""
    words = PROMPT.split()
    return model.encoder.encode([(f"{words[n]} {PROMPT}", group) for n, group in enumerate(groups)])


def expected(model: RewardModel, groups: list[list[Encoded]]) -> list[list[float]]:
    with torch.inference_mode():
        return [plain_scores(model.network, group).tolist() for group in groups]


@contextmanager
def poisoned(model: RewardModel, token: int) -> Iterator[None]:
    weight = model.network.get_input_embeddings().weight
    with torch.no_grad():
        kept = weight[token].clone()
        weight[token] = float("nan")
        yield
        weight[token] = kept


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_only_uncached_samples_are_computed_and_scores_keep_their_order(checkpoint: Kinds, kind: Kind) -> None:
    model = load_model(checkpoint(kind), 128)
    version = LoadedVersion("v000001", model)

    async def main() -> None:
        async with wired(model) as w:
            first = groups_of(model, RESPONSES[:2], RESPONSES[2:])
            approximately = [pytest.approx(scores, abs=1e-4) for scores in expected(model, first)]
            assert await w.scorer.rewards(version, first) == approximately
            seen = sum(map(len, w.slices))
            assert seen == 4
            more = groups_of(model, [RESPONSES[3], *RESPONSES[:2], "Yes."], RESPONSES[2:], ["No."])
            approximately = [pytest.approx(scores, abs=1e-4) for scores in expected(model, more)]
            assert await w.scorer.rewards(version, more) == approximately
            assert sum(map(len, w.slices)) == seen + 3
            assert (w.counted("hit"), w.counted("miss")) == (4, 7)
            assert await w.scorer.rewards(version, more) == approximately
            assert sum(map(len, w.slices)) == seen + 3

    asyncio.run(main())


def test_a_cached_score_is_used_only_for_its_own_version(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)

    async def main() -> None:
        async with wired(model) as w:
            groups = groups_of(model, RESPONSES)
            for name in ("v000001", "v000002", "v000001"):
                await w.scorer.rewards(LoadedVersion(name, model), groups)
            assert (w.counted("hit"), w.counted("miss")) == (4, 8)

    asyncio.run(main())


def test_the_cache_evicts_the_least_recently_used_scores_first(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    version = LoadedVersion("v000001", model)

    async def main() -> None:
        async with wired(model, entries=2) as w:
            for place, hits in ((0, 0), (1, 0), (0, 1), (2, 1), (0, 2), (1, 2)):  # 2 drops 1
                await w.scorer.rewards(version, groups_of(model, [RESPONSES[place]]))
                assert w.counted("hit") == hits

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_repeated_response_in_a_request_is_computed_once_and_has_one_score(
    checkpoint: Kinds, kind: Kind
) -> None:
    """Computed twice in slices of different sizes, its last digits could differ."""
    model = load_model(checkpoint(kind), 128)

    async def main() -> None:
        async with wired(model, slice_tokens=30, entries=0) as w:
            first, second = RESPONSES[:2]
            groups = groups_of(model, [first, second, first], [first, first])
            scores = await w.scorer.rewards(LoadedVersion("v000001", model), groups)
            assert sum(map(len, w.slices)) == 3
            assert scores[0][0] == scores[0][2]
            assert scores[1][0] == scores[1][1]
            assert scores == [pytest.approx(group, abs=1e-4) for group in expected(model, groups)]

    asyncio.run(main())


def test_a_non_finite_score_is_refused_and_not_cached(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    version = LoadedVersion("v000001", model)
    groups = groups_of(model, ["It is!"])
    (poison,) = set(groups[0][0].ids) - set(groups_of(model, ["It is"])[0][0].ids)

    async def main() -> None:
        async with wired(model) as w:
            with poisoned(model, poison):
                for _ in range(2):
                    with pytest.raises(NonFiniteScoreError, match="v000001"):
                        await w.scorer.rewards(version, groups)
            approximately = [pytest.approx(scores, abs=1e-4) for scores in expected(model, groups)]
            assert await w.scorer.rewards(version, groups) == approximately

    asyncio.run(main())


def test_a_score_of_exactly_zero_is_cached_and_returned(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    for parameter in model.network.get_submodule("classifier").parameters():
        parameter.data.zero_()

    async def main() -> None:
        async with wired(model) as w:
            for _ in range(2):
                scores = await w.scorer.rewards(LoadedVersion("v000001", model), groups_of(model, RESPONSES))
                assert scores == [[0.0] * 4]
            assert (w.counted("hit"), w.counted("miss")) == (4, 4)

    asyncio.run(main())


def test_the_first_model_fixes_the_forward_plan(checkpoint: Kinds) -> None:
    first, second = (load_model(checkpoint("bert"), 128) for _ in range(2))

    async def main() -> None:
        async with wired(first) as w:
            w.scorer.prepare(second)
            assert w.plans == [first]
            assert not w.batcher.started
            await w.scorer.rewards(LoadedVersion("v000002", second), groups_of(second, RESPONSES))
            assert w.batcher.started

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "share"), [("llama", True), ("llama", False), ("bert", True)])
def test_a_shared_prompt_counts_once_toward_the_queue_limit(checkpoint: Kinds, kind: Kind, share: bool) -> None:
    model = load_model(checkpoint(kind), 128, share_prompts=share)
    groups = groups_of(model, RESPONSES)
    tokens = sum(len(sample.ids) for sample in groups[0])
    if kind == "llama" and share:
        assert len({sample.prompt_tokens for sample in groups[0]}) == 1
        tokens -= 3 * groups[0][0].prompt_tokens

    async def main() -> None:
        async with wired(model) as w:
            scoring = asyncio.ensure_future(w.scorer.rewards(LoadedVersion("v000001", model), groups))
            await asyncio.sleep(0)
            assert w.batcher.queued_tokens == tokens
            assert len((await scoring)[0]) == 4

    asyncio.run(main())


def test_a_cancelled_request_is_continued_by_a_retry(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    version, groups = LoadedVersion("v000001", model), groups_of(model, *[RESPONSES] * 8)

    async def main() -> None:
        async with wired(model, slice_tokens=60, held=True) as w:
            first = asyncio.ensure_future(w.scorer.rewards(version, groups))
            w.released.release(3)
            await until(lambda: len(w.slices) == 4)
            first.cancel()
            await until(lambda: w.batcher.queued_tokens == 0)
            w.released.release(1000)
            await asyncio.gather(first, return_exceptions=True)
            done = sum(map(len, w.slices))
            tokens = sum(len(sample.ids) for part in w.slices for sample in part)
            assert value_of(w.metrics.undelivered_tokens) == tokens
            assert await w.scorer.rewards(version, groups) == [
                pytest.approx(group, abs=1e-4) for group in expected(model, groups)
            ]
            assert (len(w.slices) > 5, w.counted("hit"), w.counted("miss")) == (True, done, 32 - done)
            assert sum(map(len, w.slices)) == 32
            assert value_of(w.metrics.undelivered_tokens) == sum(
                len(s.ids) for part in w.slices[:4] for s in part
            )

    asyncio.run(main())


def test_a_group_stays_in_one_slice_if_its_prompt_is_shared(checkpoint: Kinds) -> None:
    groups_per_slice: dict[bool, list[int]] = {}
    for share in (True, False):
        model = load_model(checkpoint("llama"), 128, share_prompts=share)

        async def main(model: RewardModel = model, share: bool = share) -> None:
            async with wired(model, slice_tokens=70) as w:
                groups = groups_of(model, RESPONSES, RESPONSES, RESPONSES)
                await w.scorer.rewards(LoadedVersion("v000001", model), groups)
                prompts = [[sample.ids[:5] for sample in part] for part in w.slices]
                groups_per_slice[share] = [len({tuple(ids) for ids in part}) for part in prompts]
                assert sum(map(len, w.slices)) == 12

        asyncio.run(main())
    assert sum(groups_per_slice[True]) == 3  # no group is in two slices
    assert sum(groups_per_slice[False]) > 3


LARGE = [Group("Why?", [f"{number} {'the answer ' * 6000}" for number in range(100)])]  # in 100 portions
SMALL = [Group(PROMPT, RESPONSES)]


def test_a_small_request_is_tokenised_while_large_ones_are_under_way(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    version, ended = LoadedVersion("v000001", model), []

    async def main() -> None:
        async with wired(model) as w:

            async def encode(name: str, groups: list[Group]) -> list[list[Encoded]]:
                encoded = await w.scorer.encode(version, groups)
                ended.append(name)
                return encoded

            large = [asyncio.create_task(encode("large", LARGE)) for _ in range(3)]
            await asyncio.sleep(0)  # until they have begun
            assert await encode("small", SMALL) == model.encoder.encode(SMALL)
            assert ended == ["small"]
            assert await asyncio.gather(*large) == [model.encoder.encode(LARGE)] * 3

    asyncio.run(main())


class Counting(Encoder):
    """Counts the portions that it has begun."""

    begun = 0

    def portions(self, groups: Sequence[TextGroup]) -> Iterator[Portion]:
        portions = super().portions(groups)
        while True:
            self.begun += 1
            try:
                yield next(portions)
            except StopIteration:
                return


def test_a_cancelled_request_is_tokenised_no_further(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    model.encoder = encoder = Counting(model.encoder.tokenizer, 128)
    version = LoadedVersion("v000001", model)

    async def main() -> None:
        async with wired(model) as w:
            request = asyncio.create_task(w.scorer.encode(version, LARGE))
            await asyncio.to_thread(wait_until, lambda: encoder.begun >= 3)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            begun = encoder.begun  # the last one may be under way
            for more in range(1, 20):
                await w.scorer.encode(version, SMALL)
                assert encoder.begun == begun + more

    asyncio.run(main())


def test_a_request_under_way_is_not_tokenised_after_the_end(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    model.encoder = encoder = Counting(model.encoder.tokenizer, 128)

    async def main() -> None:
        async with wired(model) as w:
            request = asyncio.create_task(w.scorer.encode(LoadedVersion("v000001", model), LARGE))
            await asyncio.to_thread(wait_until, lambda: encoder.begun >= 3)
        with pytest.raises(NotReadyError, match="shutting down"):
            await request

    asyncio.run(main())


def test_a_small_request_is_tokenised_in_one_portion(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    assert len(list(model.encoder.portions(SMALL * 50))) == 1


UNCUT = "a" * 20_000  # one word, which is tokenised again with each response


@pytest.mark.parametrize(
    ("kind", "rules", "prompt"),
    [
        ("llama", TextRules(), UNCUT),
        ("llama-chat", TextRules(), UNCUT),
        ("llama-chat", TextRules(split_special_tokens=True), f"{'one two ' * 2500}</s>"),
    ],
)
def test_a_request_whose_prompts_are_read_too_often_is_refused_and_its_parts_pass(
    checkpoint: Kinds, kind: Kind, rules: TextRules, prompt: str
) -> None:
    model = load_model(checkpoint(kind), 128)
    model.encoder = encoder = Encoder(model.encoder.tokenizer, 128, rules)
    version = LoadedVersion("v000001", model)
    responses = [f"{number} is it" for number in range(12)]

    async def main() -> None:
        async with wired(model, max_request_chars=25_000) as w:
            with pytest.raises(PayloadTooLargeError, match=r"100000 .*METARM_MAX_REQUEST_CHARS") as refused:
                await w.scorer.encode(version, [Group(prompt, responses)])
            assert refused.value.details["limit"] == 100_000
            assert refused.value.details["setting"] == "METARM_MAX_REQUEST_CHARS"
            for half in (responses[:6:2], responses[6:9]):
                groups = [Group(prompt, half)]
                assert await w.scorer.encode(version, groups) == encoder.encode(groups)
            again = [Group(prompt, responses[:1] * 100)]  # read once
            assert await w.scorer.encode(version, again) == encoder.encode(again)
            prose = [Group("one two " * 2500, responses)]  # cut
            assert await w.scorer.encode(version, prose) == encoder.encode(prose)
        async with wired(model, max_request_chars=1) as w:
            alone = [Group(prompt, ["one"])]
            assert await w.scorer.encode(version, alone) == encoder.encode(alone)

    asyncio.run(main())
