"""All that looks at what was answered, wired: drift figures, shadow scores, the watch, automatic runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import redis

from metarm.model.encoding import Encoded
from metarm.runtime.loops import again_and_again
from metarm.shared.jobs import RetrainCooldown
from metarm.shared.watches import WatchBoard
from metarm.store.versions import VersionStore
from service.oversight.auto_retrain import AutoRetrain
from service.oversight.drift import Comparison, Drift
from service.oversight.shadow import Shadow, canary_in_the_shadow
from service.oversight.traffic import ShadowPlan, Traffic
from service.oversight.watch import Watch
from service.samples.retraining import Retraining
from service.scoring.batcher import Batcher
from service.scoring.scorer import Scorer
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.versions.live_model import LiveModel, LoadedVersion

RETRAIN_LOOK_S = 3.0


@dataclass(frozen=True, slots=True)
class Oversight:
    drift: Drift
    traffic: Traffic
    shadow: Shadow
    watch: Watch
    auto_retrain: AutoRetrain
    watch_every_s: float

    def start(self) -> list[asyncio.Task[None]]:
        """Look from now on, until the tasks are cancelled."""
        looks = {
            "traffic": (self.traffic.look, 0.0),
            "shadow": (self.shadow.look, 0.0),
            "watch": (self.watch.look, self.watch_every_s),
            "auto-retrain": (self.auto_retrain.look, RETRAIN_LOOK_S),
        }
        return [
            asyncio.create_task(again_and_again(look, every_s), name=name)
            for name, (look, every_s) in looks.items()
        ]


def oversee(
    settings: ServiceSettings,
    *,
    client: redis.Redis,
    store: VersionStore,
    live: LiveModel,
    drift: Drift,
    scorer: Scorer,
    batcher: Batcher[LoadedVersion, Encoded],
    tokenizer_threads: Executor,
    retraining: Retraining,
    activate: Callable[[str, str], Awaitable[object]],
    metrics: Metrics,
    counted: Callable[[int, int], None],
) -> Oversight:
    """`activate` makes a version current, for a reason; `counted` is told what is answered."""
    watch = Watch(settings, store, live, drift, WatchBoard(client), activate, metrics)

    def plans() -> list[ShadowPlan]:
        return [plan for plan in (watch.plan(), canary_in_the_shadow(live)) if plan]

    def compared(version: LoadedVersion, other: LoadedVersion, group: Comparison) -> None:
        drift.of(version.name, version.manifest).compare(other.name, other.manifest, group)
        watch.compared(version, other, group)

    shadow = Shadow(
        live,
        scorer,
        tokenizer_threads,
        metrics,
        plans=plans,
        queued_tokens=lambda: batcher.queued_tokens,
        queue_tokens=settings.queue_tokens,
        compared=compared,
    )
    return Oversight(
        drift=drift,
        traffic=Traffic(drift, metrics, plans, shadow.offer, counted),
        shadow=shadow,
        watch=watch,
        auto_retrain=AutoRetrain(
            settings, live, drift, retraining, RetrainCooldown(client, settings.retrain_cooldown_s), metrics
        ),
        watch_every_s=settings.poll_ms / 1000,
    )
