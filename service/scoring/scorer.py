"""Encoded groups → scores: from the cache where they are known, through the queue where they are not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from metarm.errors import NonFiniteScoreError
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel, all_finite
from service.scoring.batcher import Batcher
from service.scoring.engine import Engine
from service.scoring.plan import ForwardPlan
from service.scoring.score_cache import ScoreCache
from service.telemetry.metrics import Metrics
from service.versions.live_model import LoadedVersion

log = logging.getLogger(__name__)


class Scorer:
    """What a request is scored by."""

    def __init__(
        self,
        engine: Engine,
        batcher: Batcher[LoadedVersion, Encoded],
        cache: ScoreCache,
        metrics: Metrics,
        choose_plan: Callable[[RewardModel], ForwardPlan],
        not_finite: Callable[[LoadedVersion], None] | None = None,
    ) -> None:
        """`not_finite` is told of a version that answered a score which is no number."""
        self._engine = engine
        self._batcher = batcher
        self._cache = cache
        self._metrics = metrics
        self._choose_plan = choose_plan
        self._not_finite = not_finite
        self._plan: ForwardPlan | None = None
        self.scored_tokens = 0  # since the start, from the cache or not, by all versions

    def prepare(self, model: RewardModel) -> ForwardPlan:
        """How the forward uses this machine: fixed by the first model loaded, for all. Off the event loop:
        it may take seconds."""
        if self._plan is None:
            self._plan = self._choose_plan(model)
            log.info("forward: %s, %s", model.route.name, self._plan)
        return self._plan

    async def score(
        self, version: LoadedVersion, groups: Sequence[Sequence[Encoded]], *, aside: bool = False
    ) -> list[list[float]]:
        """One finite raw reward per response, group by group: not yet calibrated. `aside`: `Batcher.score`.

        Raises NonFiniteScoreError, and what `Batcher.score` raises.
        """
        keys = [[sample.key for sample in group] for group in groups]
        known = [[self._cache.get(version.name, key) for key in group] for group in keys]
        missing = [
            (place, index)
            for place, group in enumerate(known)
            for index, score in enumerate(group)
            if score is None
        ]
        if missing:
            self._start_workers()
            fresh = await self._compute(version, groups, keys, missing, aside)
            for (place, index), score in zip(missing, fresh, strict=True):
                known[place][index] = score
                self._cache.put(version.name, keys[place][index], score)
        self._count(version.name, groups, len(missing))
        return [[score for score in group if score is not None] for group in known]

    def served(self, version: LoadedVersion, raw: Sequence[float]) -> list[float]:
        """The scores to answer for rewards of `version`. Raises NonFiniteScoreError where one overflows."""
        scores = version.calibration.scores(raw)
        self._require_finite(version, scores, "a calibrated score")
        return scores

    def _start_workers(self) -> None:
        if not self._batcher.started:
            assert self._plan is not None  # noqa: S101 (a version is loaded, so it was prepared)
            self._engine.use(self._plan)
            self._batcher.start(self._plan.workers, self._plan.slice_tokens, self._engine.begin)

    async def _compute(
        self,
        version: LoadedVersion,
        groups: Sequence[Sequence[Encoded]],
        keys: Sequence[Sequence[bytes]],
        missing: Sequence[tuple[int, int]],
        aside: bool,
    ) -> list[float]:
        """Scores of the `missing` (group, response) places, ascending; those of one key are computed once."""
        first = {keys[place][index]: (place, index) for place, index in reversed(missing)}
        distinct = sorted(first.values())
        scores = dict(zip(distinct, await self._enqueue(version, groups, distinct, aside), strict=True))
        return [scores[first[keys[place][index]]] for place, index in missing]

    async def _enqueue(
        self,
        version: LoadedVersion,
        groups: Sequence[Sequence[Encoded]],
        places: Sequence[tuple[int, int]],
        aside: bool,
    ) -> list[float]:
        samples = [groups[place][index] for place, index in places]
        # after the first of a group, a response costs only what follows the prompt, where that is shared
        shares = version.model.shares_prompts
        shared = [
            samples[number].prompt_tokens if shares and number and places[number - 1][0] == place else 0
            for number, (place, _) in enumerate(places)
        ]
        costs = [max(1, len(sample.ids) - tokens) for sample, tokens in zip(samples, shared, strict=True)]
        scores = await self._batcher.score(version, samples, costs, shared, aside=aside)
        self._require_finite(version, scores, "a score")
        return scores

    def _require_finite(self, version: LoadedVersion, scores: Sequence[float], what: str) -> None:
        if all_finite(scores):
            return
        self._metrics.drift.non_finite.labels(version.name).inc()
        if self._not_finite:
            self._not_finite(version)
        raise NonFiniteScoreError(f"{version.name}: {what} is not a finite number", version=version.name)

    def _count(self, version: str, groups: Sequence[Sequence[Encoded]], computed: int) -> None:
        flat = [sample for group in groups for sample in group]
        tokens = sum(len(sample.ids) for sample in flat)
        self.scored_tokens += tokens
        self._metrics.responses_scored.labels(version).inc(len(flat))
        self._metrics.tokens_scored.labels(version).inc(tokens)
        self._metrics.responses_truncated.inc(sum(sample.truncated for sample in flat))
        self._metrics.score_cache.labels("miss").inc(computed)
        self._metrics.score_cache.labels("hit").inc(len(flat) - computed)
