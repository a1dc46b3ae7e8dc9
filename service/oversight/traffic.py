"""What was answered, for whoever looks at it: taken in microseconds, looked at between requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metarm.model.encoding import Encoded
from metarm.records import PolicyStamp, Prompt
from service.oversight.drift import Drift, Figures
from service.telemetry.metrics import Metrics
from service.versions.live_model import LoadedVersion
from service.versions.prompt_share import share_of

MOST_WAITING = 20_000  # groups
AT_ONCE = 8  # groups looked at before requests get a turn again: some tenths of a millisecond


@dataclass(frozen=True, slots=True)
class ScoredTraffic:
    """One answered group: what was asked, its sequences, and the scores as they were served."""

    prompt: Prompt
    responses: Sequence[str]
    encoded: Sequence[Encoded]
    scores: Sequence[float]
    policy: PolicyStamp | None


@dataclass(frozen=True, slots=True)
class ShadowPlan:
    """What `version` answers is scored by `other` as well, for a `share` of all prompts."""

    version: str
    other: str
    share: float


class Traffic:
    """Lives on the event loop. Every answered group counts, whoever asked."""

    def __init__(
        self,
        drift: Drift,
        metrics: Metrics,
        plans: Callable[[], Sequence[ShadowPlan]],
        shadow: Callable[[LoadedVersion, ScoredTraffic, ShadowPlan], None],
        counted: Callable[[int, int], None] = lambda _, __: None,
    ) -> None:
        """`shadow` is handed each group that one of the `plans` asks for; `counted` is told the responses
        and tokens of each answered request."""
        self._drift = drift
        self._metrics = metrics.drift
        self._plans = plans
        self._shadow = shadow
        self._counted = counted
        self._waiting: deque[tuple[LoadedVersion, ScoredTraffic]] = deque()
        self._came = asyncio.Event()

    def scored(self, version: LoadedVersion, groups: Sequence[ScoredTraffic]) -> None:
        """Take one answered request's groups; returns at once. Too many that wait are dropped and counted."""
        encoded = [sample for group in groups for sample in group.encoded]
        self._counted(len(encoded), sum(len(sample.ids) for sample in encoded))
        if len(self._waiting) + len(groups) > MOST_WAITING:
            self._metrics.traffic_dropped.inc(len(groups))
            return
        self._waiting.extend((version, group) for group in groups)
        self._came.set()

    async def look(self) -> None:
        """Wait for what comes, then look at all that waits, a few groups at a time."""
        await self._came.wait()
        self._came.clear()
        while self._waiting:
            for _ in range(min(AT_ONCE, len(self._waiting))):
                self._account(*self._waiting.popleft())
            await asyncio.sleep(0)

    def _account(self, version: LoadedVersion, group: ScoredTraffic) -> None:
        drift = self._drift.of(version.name, version.manifest)
        lengths = [len(sample.ids) for sample in group.encoded]
        truncated = sum(sample.truncated for sample in group.encoded)
        drift.add(Figures.of_group(group.scores, lengths, truncated, drift.reference), group.policy)
        drift.recent.add(group.scores, lengths)
        histogram = self._metrics.score.labels(version.name)
        for score in group.scores:
            histogram.observe(score)
        if len(group.scores) < 2:
            return  # nothing to compare
        for plan in self._plans():
            if plan.version == version.name and share_of(group.prompt) < plan.share:
                self._shadow(version, group, plan)
