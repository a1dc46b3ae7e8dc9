"""The monitoring of one server: its parts, constructed here, and the loops that they run in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import redis

from metarm.runtime.loops import Loops
from metarm.shared.first_windows import FirstWindows
from metarm.shared.jobs import JobBoard, RetrainCooldown
from metarm.shared.presence import TrainerPresence
from metarm.shared.watches import WatchBoard
from service.oversight.auto_retrain import AutoRetrain
from service.oversight.drift import Comparison, Drift
from service.oversight.health import REFRESH_S, HealthMonitor
from service.oversight.shadow import Shadow, canary_shadow_plan
from service.oversight.traffic import ShadowPlan, Traffic
from service.oversight.watch import Watch
from service.samples.retraining import Retraining
from service.scoring.scorer import Scorer
from service.settings import ServiceSettings
from service.telemetry.load_monitor import REFRESH_S as LOAD_S
from service.telemetry.load_monitor import LoadMonitor
from service.telemetry.metrics import Metrics
from service.versions.live import LoadedVersion
from service.versions.versions import Versions

RETRAIN_S = 3.0


class Oversight:
    """Lives on the event loop, from `running` to its end. No request waits for it."""

    def __init__(
        self,
        settings: ServiceSettings,
        client: redis.Redis,
        metrics: Metrics,
        loops: Loops,
        versions: Versions,
        scorer: Scorer,
        retraining: Retraining,
        presence: TrainerPresence,
        drift: Drift,
        load_monitor: LoadMonitor,
    ) -> None:
        live = versions.live
        self.drift = drift
        self.watch = Watch(
            settings,
            versions.store,
            live,
            drift,
            WatchBoard(client),
            versions.activate,
            metrics,
            loops.add("watch-records"),
        )
        self.auto_retrain = AutoRetrain(
            settings,
            versions.store,
            live,
            drift,
            retraining,
            RetrainCooldown(client, settings.retrain_cooldown_s),
            FirstWindows(client),
            metrics,
        )
        self.health = HealthMonitor(JobBoard(client), presence, versions.fault, loops)
        self._shadow = Shadow(
            live,
            scorer,
            metrics,
            plans=self._plans,
            queued_tokens=lambda: scorer.batcher.queued_tokens,
            queue_tokens=settings.queue_tokens,
            on_comparison=self._compared,
        )
        self.traffic = Traffic(drift, metrics, self._plans, self._shadow.offer, load_monitor.scored)
        self._live = live
        self._scorer = scorer
        self._load_monitor = load_monitor
        self._loops = loops
        self._watch_s = settings.poll_ms / 1000

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        turns: dict[str, tuple[Callable[[], Awaitable[None]], float]] = {
            "traffic": (self.traffic.process, 0.0),
            "shadow": (self._shadow.process, 0.0),
            "watch": (self.watch.judge, self._watch_s),
            "auto-retrain": (self.auto_retrain.decide, RETRAIN_S),
            "health": (self.health.refresh, REFRESH_S),
            "load": (self._refresh_load, LOAD_S),
        }
        async with AsyncExitStack() as stack:
            for name, (turn, every_s) in turns.items():
                first = name == "health"  # the first request may ask for it
                await stack.enter_async_context(self._loops.running(name, turn, every_s, first_turn=first))
            yield

    def _plans(self) -> list[ShadowPlan]:
        return [plan for plan in (self.watch.plan(), canary_shadow_plan(self._live)) if plan]

    def _compared(self, version: LoadedVersion, other: LoadedVersion, group: Comparison) -> None:
        self.drift.of(version.name, version.manifest).compare(other.name, other.manifest, group)
        self.watch.compared(version, other, group)

    async def _refresh_load(self) -> None:
        self._load_monitor.refresh(self._scorer.batcher, self._live.current_name)
