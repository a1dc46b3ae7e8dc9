"""Shadow scoring: another version scores answered groups a second time, for comparison only.

While no request waits in the queue, groups are scored one after the other. While requests wait, shadow scoring
takes BUSY_SHARE of all scored tokens, so that a watch over a server that is never idle reaches a verdict.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from metarm.errors import NonFiniteScoreError
from metarm.model.encoding import Encoded
from service.oversight.drift import Comparison
from service.oversight.traffic import ShadowPlan
from service.scoring.scorer import Group, ScoredGroup, Scorer
from service.telemetry.metrics import Metrics
from service.versions.canary import CANARY
from service.versions.live import LiveVersions, LoadedVersion

log = logging.getLogger(__name__)

MOST_WAITING = 1000  # groups of a plan: a burst of rollouts can wait for the pause after it
PIECE_TOKENS = 4096  # in one forward: a request that arrives meanwhile may have to wait for it
BUSY_SHARE = 0.02  # a watch lasts ten times its window, so it compares a fifth of the window's groups
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Waiting:
    group: ScoredGroup
    plan: ShadowPlan


class Shadow:
    """Scores offered groups in small pieces, the most urgent plan's first."""

    def __init__(
        self,
        live: LiveVersions,
        scorer: Scorer,
        metrics: Metrics,
        *,
        plans: Callable[[], Sequence[ShadowPlan]],
        queued_tokens: Callable[[], int],
        queue_tokens: int,
        on_comparison: Callable[[LoadedVersion, LoadedVersion, Comparison], None],
    ) -> None:
        """`plans` returns the plans, the most urgent first. `queue_tokens` is the limit of the scorer's queue,
        and `queued_tokens` returns its length. `on_comparison` receives, for each group, the version that
        answered it, the other version, and how they compare."""
        self._live = live
        self._scorer = scorer
        self._metrics = metrics.drift
        self._plans = plans
        self._queued_tokens = queued_tokens
        self._piece_tokens = min(PIECE_TOKENS, queue_tokens // 8)  # never fills the queue
        self._on_comparison = on_comparison
        self._waiting: defaultdict[ShadowPlan, deque[Waiting]] = defaultdict(deque)
        self._arrived = asyncio.Event()
        self._seen_tokens = 0  # scored at the last `_earn`
        self._earned = 0.0  # tokens that may be scored while requests wait

    def offer(self, group: ScoredGroup, plan: ShadowPlan) -> None:
        """Take an answered group of two or more distinct responses, or drop and count it. Does not block."""
        waiting = self._waiting[plan]
        if len(waiting) >= MOST_WAITING:
            self._drop("queue_full")
            return
        waiting.append(Waiting(group, plan))
        self._arrived.set()

    async def process(self) -> None:
        """Wait for groups, then score all that wait."""
        await self._arrived.wait()
        self._earn()
        self._earned = min(self._earned, self._piece_tokens)  # time without work earns no more than one piece
        while waiting := self._next():
            await self._compare_next(waiting)
        self._arrived.clear()  # after an error it stays set: the next turn continues

    def _next(self) -> Waiting | None:
        """A group of the most urgent plan; groups of a plan that ended are dropped."""
        plans = self._plans()
        for ended in self._waiting.keys() - set(plans):
            self._drop("no_longer_wanted", len(self._waiting.pop(ended)))
        return next((self._waiting[plan].popleft() for plan in plans if self._waiting[plan]), None)

    async def _compare_next(self, waiting: Waiting) -> None:
        try:
            other = await self._live.load(waiting.plan.other)
            with self._live.using(other):
                scores = await self._score(other, waiting.group)
        except NonFiniteScoreError:
            self._drop("non_finite")
        except Exception as error:  # noqa: BLE001 (counted: any error of the forward costs one group)
            log.warning("%s failed to score a group in the shadow: %s", waiting.plan.other, error)
            self._drop("failed")
        else:
            self._metrics.shadow_scored.labels(other.name).inc()
            self._on_comparison(waiting.group.version, other, Comparison.of_group(waiting.group.scores, scores))

    async def _score(self, version: LoadedVersion, group: ScoredGroup) -> list[float]:
        """The scores that `version` would have served: its own tokens, its own scale."""
        (encoded,) = await self._scorer.encode(version, [Group(group.prompt, group.responses)])
        raw: list[float] = []
        for piece in self._pieces(encoded):
            await self._wait_for_capacity(sum(len(sample.ids) for sample in piece))
            (rewards,) = await self._scorer.rewards(version, [piece], background=True)
            raw += rewards
        return version.calibration.scores(raw)

    async def _wait_for_capacity(self, tokens: int) -> None:
        """Wait until no request waits, or this many tokens are earned."""
        self._earn()
        while self._queued_tokens() and self._earned < tokens:
            await asyncio.sleep(POLL_S)
            self._earn()
        self._earned = max(0.0, self._earned - tokens)

    def _earn(self) -> None:
        scored = self._scorer.scored_tokens
        self._earned += BUSY_SHARE * (scored - self._seen_tokens)
        self._seen_tokens = scored

    def _pieces(self, encoded: Sequence[Encoded]) -> Iterator[list[Encoded]]:
        piece: list[Encoded] = []
        tokens = 0
        for sample in encoded:
            if piece and tokens + len(sample.ids) > self._piece_tokens:
                yield piece
                piece, tokens = [], 0
            piece.append(sample)
            tokens += len(sample.ids)
        yield piece

    def _drop(self, reason: str, groups: int = 1) -> None:
        self._metrics.shadow_dropped.labels(reason).inc(groups)


def canary_shadow_plan(live: LiveVersions) -> ShadowPlan | None:
    """The plan for a shadow canary of the current version; None without such a label."""
    label, current = live.labels.get(CANARY), live.current_name
    if label is None or not label.shadow or label.share == 0 or current in (None, label.version):
        return None
    return ShadowPlan(str(current), label.version, label.share)
