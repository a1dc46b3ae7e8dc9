"""A queue of answered groups for the drift figures and the shadow: processed between requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from metarm.figures import distinct, taken
from metarm.records import PolicyStamp
from service.oversight.drift import Drift, Figures
from service.scoring.scorer import ScoredGroup
from service.telemetry.metrics import Metrics
from service.versions.prompt_share import share_of

MOST_WAITING = 20_000  # groups
AT_ONCE = 8  # groups processed before requests get a turn: a few tenths of a millisecond


@dataclass(frozen=True, slots=True)
class ShadowPlan:
    """For a `share` of all prompts, groups that `version` answered are scored a second time, by `other`."""

    version: str
    other: str
    share: float


class Traffic:
    """Lives on the event loop. Every answered group of every client counts."""

    def __init__(
        self,
        drift: Drift,
        metrics: Metrics,
        plans: Callable[[], Sequence[ShadowPlan]],
        shadow: Callable[[ScoredGroup, ShadowPlan], None],
        on_answered: Callable[[int, int], None] = lambda _, __: None,
    ) -> None:
        """`shadow` receives each group that one of the `plans` selects, without repeated responses;
        `on_answered` receives the responses and tokens of each answered request."""
        self._drift = drift
        self._metrics = metrics.drift
        self._plans = plans
        self._shadow = shadow
        self._on_answered = on_answered
        self._waiting: deque[tuple[ScoredGroup, PolicyStamp | None]] = deque()
        self._arrived = asyncio.Event()

    def answered(self, groups: Sequence[ScoredGroup], policy: PolicyStamp | None) -> None:
        """Take the groups of one answered request, in microseconds. While too many wait, they are dropped and
        counted."""
        encoded = [sample for group in groups for sample in group.encoded]
        self._on_answered(len(encoded), sum(len(sample.ids) for sample in encoded))
        if len(self._waiting) + len(groups) > MOST_WAITING:
            self._metrics.traffic_dropped.inc(len(groups))
            return
        self._waiting.extend((group, policy) for group in groups)
        self._arrived.set()

    async def process(self) -> None:
        """Wait for groups, then process all that wait, a few at a time."""
        await self._arrived.wait()
        while self._waiting:
            for _ in range(min(AT_ONCE, len(self._waiting))):
                self._record(*self._waiting.popleft())
            await asyncio.sleep(0)
        self._arrived.clear()  # after an error it stays set: the next turn continues

    def _record(self, group: ScoredGroup, policy: PolicyStamp | None) -> None:
        version = group.version
        drift = self._drift.of(version.name, version.manifest)
        lengths = [len(sample.ids) for sample in group.encoded]
        truncated = sum(sample.truncated for sample in group.encoded)
        places = _distinct(group)
        drift.add(Figures.of_group(group.scores, lengths, truncated, drift.reference, places), policy)
        drift.recent.add(taken(group.scores, places), taken(lengths, places))
        histogram = self._metrics.score.labels(version.name)
        for score in group.scores:
            histogram.observe(score)
        if len(places) < 2:
            return  # nothing to compare
        for plan in self._plans():
            if plan.version == version.name and share_of(group.prompt) < plan.share:
                self._shadow(_only(group, places), plan)


def _distinct(group: ScoredGroup) -> Sequence[int]:
    """The places of the distinct responses. Equal inputs have equal rewards: inputs are compared only where
    rewards are equal, because a digest costs more than the figures."""
    if len(set(group.raw)) == len(group.raw):
        return range(len(group.raw))
    return distinct([sample.key for sample in group.encoded])


def _only(group: ScoredGroup, places: Sequence[int]) -> ScoredGroup:
    if len(places) == len(group.scores):
        return group
    return replace(
        group,
        responses=taken(group.responses, places),
        encoded=taken(group.encoded, places),
        raw=taken(group.raw, places),
        scores=taken(group.scores, places),
    )
