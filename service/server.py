"""One running server: its parts, constructed here, and their start and end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from metarm.model.encoding import Encoded
from metarm.model.forward import PrefixCache
from metarm.runtime import tracing
from metarm.runtime.idle_memory import CHECK_S, IdleMemory
from metarm.runtime.loops import Loops
from metarm.shared.connection import connect
from metarm.shared.jobs import JobBoard
from metarm.shared.presence import TrainerPresence
from metarm.shared.sample_log import SampleLog
from service.oversight.drift import Drift
from service.oversight.oversight import Oversight
from service.samples.retraining import Retraining
from service.samples.writer import SampleWriter
from service.scoring.batcher import Batcher
from service.scoring.engine import Engine
from service.scoring.in_flight import InFlight
from service.scoring.plan_choice import choose_plan
from service.scoring.scorer import Scorer
from service.settings import ServiceSettings
from service.telemetry.load_monitor import LoadMonitor
from service.telemetry.metrics import Metrics
from service.versions.canary import CanaryFallbacks
from service.versions.live import LoadedVersion
from service.versions.versions import Versions


@dataclass(frozen=True, slots=True)
class Server:
    """What the routes use."""

    settings: ServiceSettings
    metrics: Metrics
    load_monitor: LoadMonitor
    scorer: Scorer
    versions: Versions
    oversight: Oversight
    samples: SampleWriter
    jobs: JobBoard
    presence: TrainerPresence
    retraining: Retraining
    in_flight: InFlight[Any] = field(default_factory=InFlight)  # answers of /score


@asynccontextmanager
async def running(settings: ServiceSettings, metrics: Metrics, load: LoadMonitor) -> AsyncIterator[Server]:
    """Start the parts, serve inside the block, and end them in reverse order, so that no sample is lost. If the
    start fails half-way, the parts that were started end."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, tracing.end)
        loops = Loops(lambda name: metrics.loop_failures.labels(name).inc())
        client = stack.enter_context(connect(settings.required_redis_url))
        sample_log, drift = SampleLog(client), Drift(settings.retrain_over_groups)
        jobs, presence = JobBoard(client), TrainerPresence(client)
        samples = SampleWriter(
            sample_log,
            metrics,
            loops.add("sample-writer"),
            buffer_groups=settings.log_buffer_groups,
            max_groups=settings.log_max_groups,
            max_age_s=settings.log_max_age_s,
        )
        samples.start()
        stack.push_async_callback(asyncio.to_thread, samples.close)
        retraining = Retraining(jobs, presence, samples, sample_log, settings.store)
        scorer = _scorer(settings, metrics, drift)
        await stack.enter_async_context(scorer.running())
        versions = Versions(settings, client, metrics, loops, presence, scorer.prepare)
        await stack.enter_async_context(versions.running())
        oversight = Oversight(
            settings, client, metrics, loops, versions, scorer, retraining, presence, drift, load
        )
        await stack.enter_async_context(oversight.running())
        await stack.enter_async_context(loops.running("idle-memory", IdleMemory().release, CHECK_S))
        yield Server(settings, metrics, load, scorer, versions, oversight, samples, jobs, presence, retraining)


def _scorer(settings: ServiceSettings, metrics: Metrics, drift: Drift) -> Scorer:
    def on_answer(arrived_ns: int, taken_ns: int) -> None:
        metrics.observe_wait(arrived_ns, taken_ns)
        tracing.record("queue", arrived_ns, taken_ns)
        tracing.record("forward", taken_ns, time.monotonic_ns())

    prefixes = PrefixCache(settings.prefix_cache_mb * 2**20, metrics.count_prefix_lookup)
    engine = Engine(prefixes if settings.prefix_cache_mb else None, metrics.padding_ratio.observe)
    batcher: Batcher[LoadedVersion, Encoded] = Batcher(
        engine.forward, queue_tokens=settings.queue_tokens, on_slice=metrics.observe_slice, on_answer=on_answer
    )
    return Scorer(
        engine,
        batcher,
        settings.score_cache_entries,
        metrics,
        lambda model: choose_plan(model, settings),
        max_request_chars=settings.max_request_chars,
        fallbacks=CanaryFallbacks(lambda reason, groups: metrics.canary_fallbacks.labels(reason).inc(groups)),
        on_non_finite=lambda version: drift.failed(version.name, version.manifest),
    )
