"""Answered groups scored a second time, by another version: recorded, never answered.

While no request waits in the queue, they are scored one after the other. Where requests always wait, they
take BUSY_SHARE of all tokens that are scored: a watch over a server that is never idle is judged all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from metarm.errors import NonFiniteScoreError
from metarm.model.encoding import Encoded
from service.oversight.drift import Comparison
from service.oversight.traffic import ScoredTraffic, ShadowPlan
from service.scoring.scorer import Scorer
from service.telemetry.metrics import Metrics
from service.versions.canary import CANARY
from service.versions.live_model import LiveModel, LoadedVersion

log = logging.getLogger(__name__)

MOST_WAITING = 1000  # groups of a plan: what a burst of rollouts brings is scored in the pause after it
PIECE_TOKENS = 4096  # scored at once: what a request that comes meanwhile may have to wait for
BUSY_SHARE = 0.02  # a watch is patient for ten times its window: a fifth of the window's groups by then
LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Waiting:
    version: LoadedVersion
    group: ScoredTraffic
    plan: ShadowPlan


class Shadow:
    """Scores what it is offered, in small pieces; of several plans, the first one's groups first."""

    def __init__(
        self,
        live: LiveModel,
        scorer: Scorer,
        tokenizer_threads: Executor,
        metrics: Metrics,
        *,
        plans: Callable[[], Sequence[ShadowPlan]],
        queued_tokens: Callable[[], int],
        queue_tokens: int,
        compared: Callable[[LoadedVersion, LoadedVersion, Comparison], None],
    ) -> None:
        """`plans` come in the order of their urgency; `queue_tokens` may wait in the queue, and
        `queued_tokens` do; `compared` is told, for each group, who answered it, who scored it as well,
        and how they compare."""
        self._live = live
        self._scorer = scorer
        self._tokenizer_threads = tokenizer_threads
        self._metrics = metrics.drift
        self._plans = plans
        self._queued_tokens = queued_tokens
        self._piece_tokens = min(PIECE_TOKENS, queue_tokens // 8)  # never what a request is refused for
        self._compared = compared
        self._waiting: defaultdict[ShadowPlan, deque[Waiting]] = defaultdict(deque)
        self._came = asyncio.Event()
        self._seen_tokens = 0  # that were scored when this was last looked at
        self._earned = 0.0  # tokens that may be scored though requests wait

    def offer(self, version: LoadedVersion, group: ScoredTraffic, plan: ShadowPlan) -> None:
        """Take a group of two or more that `version` answered, or drop and count it; returns at once."""
        waiting = self._waiting[plan]
        if len(waiting) >= MOST_WAITING:
            self._drop("queue_full")
            return
        waiting.append(Waiting(version, group, plan))
        self._came.set()

    async def look(self) -> None:
        """Wait for what is offered, then score all that waits."""
        await self._came.wait()
        self._came.clear()
        self._earn()
        self._earned = min(self._earned, self._piece_tokens)  # time without work earns no more than one piece
        while waiting := self._next():
            await self._work_off(waiting)

    def _next(self) -> Waiting | None:
        """Of the most urgent plan; what waits for one that ended is dropped."""
        plans = self._plans()
        for ended in self._waiting.keys() - set(plans):
            self._drop("no_longer_wanted", len(self._waiting.pop(ended)))
        return next((self._waiting[plan].popleft() for plan in plans if self._waiting[plan]), None)

    async def _work_off(self, waiting: Waiting) -> None:
        try:
            other = await self._live.load(waiting.plan.other)
            with self._live.using(other):
                scores = await self._score(other, waiting.group)
        except NonFiniteScoreError:
            self._drop("non_finite")
        except Exception as error:  # noqa: BLE001 (whatever the forward raised must not end the others)
            log.warning("%s could not score a group in the shadow: %s", waiting.plan.other, error)
            self._drop("failed")
        else:
            self._metrics.shadow_scored.labels(other.name).inc()
            self._compared(waiting.version, other, Comparison.of_group(waiting.group.scores, scores))

    async def _score(self, version: LoadedVersion, group: ScoredTraffic) -> list[float]:
        """What `version` would have served: its own tokens, its own scale."""
        pairs = [(group.prompt, group.responses)]
        loop = asyncio.get_running_loop()
        encode = version.model.encoder.encode
        (encoded,) = await loop.run_in_executor(self._tokenizer_threads, encode, pairs)
        raw: list[float] = []
        for piece in self._pieces(encoded):
            await self._turn(sum(len(sample.ids) for sample in piece))
            (scores,) = await self._scorer.score(version, [piece], aside=True)
            raw += scores
        return version.calibration.scores(raw)

    async def _turn(self, tokens: int) -> None:
        """Wait until no request does, or so many tokens are earned."""
        self._earn()
        while self._queued_tokens() and self._earned < tokens:
            await asyncio.sleep(LOOK_S)
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


def canary_in_the_shadow(live: LiveModel) -> ShadowPlan | None:
    """What the canary scores beside the current version, answering nobody; None where no label asks."""
    label, current = live.labels.get(CANARY), live.current_name
    if label is None or not label.shadow or label.share == 0 or current in (None, label.version):
        return None
    return ShadowPlan(str(current), label.version, label.share)
