"""Groups → scores: encode the texts, look up known rewards, schedule the rest, calibrate."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from cachetools import LRUCache

from metarm.errors import NonFiniteScoreError, NotReadyError, OverloadedError, PayloadTooLargeError
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel, all_finite
from metarm.records import Prompt
from metarm.runtime.tracing import span
from service.scoring.batcher import Batcher
from service.scoring.engine import Engine
from service.scoring.plan import ForwardPlan
from service.scoring.turns import in_turns
from service.scoring.warm_up import kind_of, warm_up
from service.telemetry.metrics import Metrics
from service.versions.canary import CanaryFallbacks
from service.versions.live import LoadedVersion

log = logging.getLogger(__name__)

TOKENIZER_THREADS = 2
READINGS = 4  # the tokenizer may read so many times the characters that a request may have
# these say nothing about the version
SERVER_ERRORS = (OverloadedError, NotReadyError, PayloadTooLargeError)


class Group(NamedTuple):
    """One prompt and its k responses."""

    prompt: Prompt
    responses: Sequence[str]


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group as one version scored it: k responses, sequences, raw rewards and served scores."""

    prompt: Prompt
    responses: Sequence[str]
    version: LoadedVersion
    encoded: Sequence[Encoded]
    raw: Sequence[float]
    scores: Sequence[float]


class Scorer:
    """Lives on the event loop, from `running` to its end; tokenisers and forwards run in threads."""

    def __init__(
        self,
        engine: Engine,
        batcher: Batcher[LoadedVersion, Encoded],
        cache_entries: int,
        metrics: Metrics,
        choose_plan: Callable[[RewardModel], ForwardPlan],
        *,
        max_request_chars: int,
        fallbacks: CanaryFallbacks | None = None,
        on_non_finite: Callable[[LoadedVersion], None] = lambda _version: None,
    ) -> None:
        """`cache_entries` raw rewards are kept, the least recently used dropped first (0: none). The tokenizer
        reads at most READINGS * `max_request_chars` characters for a request. `fallbacks`
        records groups that a canary failed to score; `on_non_finite` receives a version that gave a non-finite
        score."""
        self._engine = engine
        self.batcher = batcher
        # raw rewards by version and digest of the tokens: a version's name is never reused for other weights
        self._known: LRUCache[tuple[str, bytes], float] = LRUCache(cache_entries)
        self._metrics = metrics
        self._max_request_chars = max_request_chars
        self._choose_plan = choose_plan
        self._fallbacks = fallbacks or CanaryFallbacks(lambda _reason, _groups: None)
        self._on_non_finite = on_non_finite
        self._tokenizer_threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._plan: ForwardPlan | None = None
        self._warmed: set[Hashable] = set()  # kinds of network that have run a whole slice
        self.scored_tokens = 0  # since the start, cached or computed, by all versions

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Score inside the block. At its end, requests that still wait fail with NotReadyError."""
        try:
            yield
        finally:
            await self.batcher.close()
            self._tokenizer_threads.shutdown(wait=False)

    def prepare(self, model: RewardModel) -> None:
        """Make a model ready to serve, off the event loop: the first one determines the forward plan, which
        may take seconds to measure; then the model is warmed up. Raises InvalidVersionError for non-finite
        scores."""
        if self._plan is None:
            self._plan = self._choose_plan(model)
            log.info("forward: %s, %s", model.route.name, self._plan)
        kind = kind_of(model)
        warm_up(model, self._plan, whole_slice=kind not in self._warmed)
        self._warmed.add(kind)

    async def score(
        self, groups: Sequence[Group], versions: Sequence[LoadedVersion], own: LoadedVersion
    ) -> list[ScoredGroup]:
        """Score each group by its version, in order; the versions run concurrently.

        If a version other than the request's `own` fails, `own` scores its groups. Raises the
        error of `own`, and SERVER_ERRORS of any version.
        """
        others = [version for version in dict.fromkeys(versions) if version is not own]
        if not others:
            return await self._score_by(own, groups)
        places = {one: [n for n, by in enumerate(versions) if by is one] for one in (own, *others)}
        if not places[own]:
            del places[own]
        tasks = [self._score_by(one, [groups[n] for n in places[one]]) for one in places]
        # all run to their end, so that no version is in use when it may be evicted
        results = await asyncio.gather(*tasks, return_exceptions=True)
        scored: dict[int, ScoredGroup] = {}
        for one, result in zip(places, results, strict=True):  # `own` comes first
            if isinstance(result, list):
                scored.update(zip(places[one], result, strict=True))
            elif one is own or not isinstance(result, Exception) or isinstance(result, SERVER_ERRORS):
                raise result
            else:
                self._fallbacks.record(one.name, len(places[one]), result)
        left = [n for n in range(len(groups)) if n not in scored]
        again = await self._score_by(own, [groups[n] for n in left]) if left else []
        scored.update(zip(left, again, strict=True))
        return [scored[n] for n in range(len(groups))]

    async def encode(self, version: LoadedVersion, groups: Sequence[Group]) -> list[list[Encoded]]:
        """The sequences of each group as the version's model reads them. Requests take turns, portion by
        portion, so that a small one waits for no large one. Raises NotReadyError after `running` has ended, and
        PayloadTooLargeError if the tokenizer would read too much; one sequence always passes."""
        loop = asyncio.get_running_loop()
        total = sum(len(group.responses) for group in groups)
        encoded: list[Encoded] = []
        chars, limit = 0, READINGS * self._max_request_chars
        with span("tokenise", version=version.name, groups=len(groups)):
            portions = version.model.encoder.portions(groups)
            while len(encoded) < total:
                if chars > limit:
                    raise _too_much_to_read(chars, limit)
                try:
                    step = loop.run_in_executor(self._tokenizer_threads, next, portions)
                except RuntimeError as error:  # the threads take no more work
                    raise NotReadyError("the server is shutting down") from error
                portion = await step
                encoded += portion.sequences
                chars += portion.chars
        flat = iter(encoded)
        return [list(islice(flat, len(group.responses))) for group in groups]

    async def rewards(
        self, version: LoadedVersion, groups: Sequence[Sequence[Encoded]], *, background: bool = False
    ) -> list[list[float]]:
        """One finite raw reward per sequence, group by group. `background` work is admitted to a full queue:
        its caller bounds it. Raises NonFiniteScoreError, and what `Batcher.schedule` raises."""
        keys = await _keys(groups)
        known = [[self._known.get((version.name, key)) for key in group] for group in keys]
        missing = [
            (place, index)
            for place, group in enumerate(known)
            for index, reward in enumerate(group)
            if reward is None
        ]
        if missing:
            self._start_workers()
            fresh = await self._compute(version, groups, keys, missing, background)
            for (place, index), reward in zip(missing, fresh, strict=True):
                known[place][index] = reward
        self._count(version.name, groups, len(missing))
        return [[reward for reward in group if reward is not None] for group in known]

    async def _score_by(self, version: LoadedVersion, groups: Sequence[Group]) -> list[ScoredGroup]:
        encoded = await self.encode(version, groups)
        raw = await self.rewards(version, encoded)
        rows = zip(groups, encoded, raw, strict=True)
        return [
            ScoredGroup(*group, version, sequences, rewards, self._calibrated(version, rewards))
            async for group, sequences, rewards in in_turns(rows)
        ]

    def _calibrated(self, version: LoadedVersion, raw: Sequence[float]) -> list[float]:
        scores = version.calibration.scores(raw)
        self._require_finite(version, scores, "a calibrated score")
        return scores

    def _start_workers(self) -> None:
        if not self.batcher.started:
            assert self._plan is not None  # noqa: S101 (a version is loaded, so it was prepared)
            self._engine.use(self._plan)
            self.batcher.start(self._plan.workers, self._plan.slice_tokens, self._engine.begin)

    async def _compute(
        self,
        version: LoadedVersion,
        groups: Sequence[Sequence[Encoded]],
        keys: Sequence[Sequence[bytes]],
        missing: Sequence[tuple[int, int]],
        background: bool,
    ) -> list[float]:
        """Rewards of the `missing` (group, response) places, ascending; equal sequences are computed once."""
        first = {keys[place][index]: (place, index) for place, index in reversed(missing)}
        distinct = sorted(first.values())
        names = [(version.name, keys[place][index]) for place, index in distinct]
        rewards = dict(
            zip(distinct, await self._schedule(version, groups, distinct, names, background), strict=True)
        )
        return [rewards[first[keys[place][index]]] for place, index in missing]

    async def _schedule(
        self,
        version: LoadedVersion,
        groups: Sequence[Sequence[Encoded]],
        places: Sequence[tuple[int, int]],
        names: Sequence[tuple[str, bytes]],
        background: bool,
    ) -> list[float]:
        """Rewards of the sequences at `places`. Those of each slice enter the cache under their `names` when it
        ends, so that a retry continues the request of a client that left."""
        samples = [groups[place][index] for place, index in places]
        # after the first of a group, a response costs only what follows the prompt if that is shared
        shares = version.model.shares_prompts
        shared = [
            samples[number].prompt_tokens if shares and number and places[number - 1][0] == place else 0
            for number, (place, _) in enumerate(places)
        ]
        costs = [max(1, len(sample.ids) - tokens) for sample, tokens in zip(samples, shared, strict=True)]
        computed, unwanted = 0, False

        def keep(part: range, rewards: Sequence[float]) -> None:
            nonlocal computed
            tokens = sum(costs[part.start : part.stop])
            computed += tokens
            if unwanted:
                self._metrics.undelivered_tokens.inc(tokens)
            if self._known.maxsize:  # a cache of no entries refuses every one
                finite = ((n, reward) for n, reward in zip(part, rewards, strict=True) if math.isfinite(reward))
                self._known.update((names[n], reward) for n, reward in finite)

        try:
            rewards = await self.batcher.schedule(
                version, samples, costs, shared, background=background, on_part=keep
            )
        except asyncio.CancelledError:
            unwanted = True
            self._metrics.undelivered_tokens.inc(computed)
            raise
        self._require_finite(version, rewards, "a score")
        return rewards

    def _require_finite(self, version: LoadedVersion, scores: Sequence[float], what: str) -> None:
        if all_finite(scores):
            return
        self._metrics.drift.non_finite.labels(version.name).inc()
        self._on_non_finite(version)
        raise NonFiniteScoreError(f"{version.name}: {what} is not finite", version=version.name)

    def _count(self, version: str, groups: Sequence[Sequence[Encoded]], computed: int) -> None:
        flat = [sample for group in groups for sample in group]
        tokens = sum(len(sample.ids) for sample in flat)
        self.scored_tokens += tokens
        self._metrics.responses_scored.labels(version).inc(len(flat))
        self._metrics.tokens_scored.labels(version).inc(tokens)
        self._metrics.responses_truncated.inc(sum(sample.truncated for sample in flat))
        self._metrics.responses_with_control_tokens.inc(sum(sample.control_tokens for sample in flat))
        self._metrics.score_cache.labels("miss").inc(computed)
        self._metrics.score_cache.labels("hit").inc(len(flat) - computed)


def _too_much_to_read(chars: int, limit: int) -> PayloadTooLargeError:
    setting = "METARM_MAX_REQUEST_CHARS"
    message = (
        f"more than {limit} characters to tokenise ({READINGS} * {setting}), as prompts are tokenised again "
        "for each of their responses: send fewer responses in one request"
    )
    return PayloadTooLargeError(message, limit=limit, setting=setting, chars=chars)


async def _keys(groups: Sequence[Sequence[Encoded]]) -> list[list[bytes]]:
    """The key of each sequence, group by group."""
    keys = iter([sample.key async for sample in in_turns(chain.from_iterable(groups))])
    return [list(islice(keys, len(group))) for group in groups]
