"""The parts of one server, made and wired: settings → Parts."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import redis

from metarm.model.encoding import Encoded
from metarm.model.forward import PrefixCache
from metarm.runtime import tracing
from metarm.shared.coordinator import COMMAND_TIMEOUT_S, Coordinator
from metarm.shared.fleet import Fleet
from metarm.shared.jobs import JobBoard
from metarm.shared.leases import LeaseBoard
from metarm.shared.sample_log import SampleLog, connect
from metarm.shared.store_commands import StoreCommands
from service.http.page_files import PageFiles
from service.oversight.drift import Drift
from service.oversight.health import Condition
from service.oversight.wiring import oversee
from service.parts import Parts
from service.samples.retraining import Retraining
from service.samples.writer import SampleWriter
from service.scoring.batcher import Batcher
from service.scoring.engine import Engine
from service.scoring.group_scoring import GroupScoring
from service.scoring.plan_choice import choose_plan
from service.scoring.score_cache import ScoreCache
from service.scoring.scorer import Scorer
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.telemetry.pulse import Pulse
from service.versions.activation import Activator
from service.versions.canary import CanaryFallbacks
from service.versions.labels import LabelWatch
from service.versions.leases import Leases
from service.versions.live_model import LiveModel, LoadedVersion
from service.versions.loader import VersionLoader
from service.versions.membership import Membership
from service.versions.refusals import RefusalMemory, Refusals
from service.versions.store_writes import StoreWrites
from service.versions.swapper import Swapper

TOKENIZER_THREADS = 2


class _Scoring(NamedTuple):
    batcher: Batcher[LoadedVersion, Encoded]
    scorer: Scorer


class _Versions(NamedTuple):
    loader: VersionLoader
    live: LiveModel
    swapper: Swapper
    refusals: Refusals


class _Pointer(NamedTuple):
    """What moves the pointer, alone or together with the other servers."""

    membership: Membership
    writes: StoreWrites
    activator: Activator


def assemble(settings: ServiceSettings, metrics: Metrics, pulse: Pulse) -> Parts:
    """Nothing runs yet, and Redis is not asked: the caller starts the parts, and ends them."""
    client = connect(settings.required_redis_url)
    figures = Drift(settings.retrain_over_groups)
    batcher, scorer = _scoring(settings, metrics, figures)
    loader, live, swapper, refusals = _versions(settings, metrics, scorer)
    membership, writes, activator = _pointer(settings, metrics, client, live, swapper)
    tokenizer_threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
    sample_log, jobs = SampleLog(client), JobBoard(client)
    writer = _writer(settings, metrics, sample_log)
    retraining = Retraining(jobs, writer, sample_log)
    oversight = oversee(
        settings,
        client=client,
        store=settings.store,
        live=live,
        drift=figures,
        scorer=scorer,
        batcher=batcher,
        tokenizer_threads=tokenizer_threads,
        retraining=retraining,
        activate=activator.activate,
        metrics=metrics,
        counted=pulse.scored,
    )
    labels = LabelWatch(settings.store, live, poll_ms=settings.poll_ms)
    board = LeaseBoard(client, most_leases=settings.max_leases, most_versions=settings.max_leased_versions)
    return Parts(
        settings=settings,
        store=settings.store,
        loader=loader,
        live=live,
        batcher=batcher,
        group_scoring=GroupScoring(scorer, tokenizer_threads, _fallbacks(metrics)),
        swapper=swapper,
        refusals=refusals,
        labels=labels,
        leases=Leases(board, live, metrics.leases.set),
        fleet=Fleet(client),
        membership=membership,
        writes=writes,
        activator=activator,
        tokenizer_threads=tokenizer_threads,
        writer=writer,
        sample_log=sample_log,
        jobs=jobs,
        metrics=metrics,
        retraining=retraining,
        traffic=oversight.traffic,
        oversight=oversight,
        pulse=pulse,
        condition=Condition(jobs, swapper, labels),
        page=PageFiles(),
    )


def _scoring(settings: ServiceSettings, metrics: Metrics, figures: Drift) -> _Scoring:
    prefixes = PrefixCache(settings.prefix_cache_mb * 2**20, metrics.looked_up_prefix)

    def answered(arrived_ns: int, taken_ns: int) -> None:
        metrics.waited(arrived_ns, taken_ns)
        tracing.record("queue", arrived_ns, taken_ns)
        tracing.record("forward", taken_ns, time.monotonic_ns())

    engine = Engine(prefixes if settings.prefix_cache_mb else None, metrics.padding_ratio.observe)
    batcher = Batcher(
        engine.score_slice,
        queue_tokens=settings.queue_tokens,
        ran=metrics.ran,
        answered=answered,
    )
    scorer = Scorer(
        engine,
        batcher,
        ScoreCache(settings.score_cache_entries),
        metrics,
        lambda model: choose_plan(model, settings),
        lambda version: figures.failed(version.name, version.manifest),
    )
    return _Scoring(batcher, scorer)


def _fallbacks(metrics: Metrics) -> CanaryFallbacks:
    return CanaryFallbacks(lambda reason, groups: metrics.canary_fallbacks.labels(reason).inc(groups))


def _versions(settings: ServiceSettings, metrics: Metrics, scorer: Scorer) -> _Versions:
    refusals = Refusals(metrics.swaps.labels("refused").inc)
    loader = VersionLoader(
        settings.store,
        settings.max_tokens,
        share_prompts=settings.prefix_sharing,
        reduced=settings.score_dtype == "bfloat16",
        calibrated=settings.calibration,
        prepare=scorer.prepare,
        refused=refusals,
        took=metrics.load_seconds.observe,
    )
    memory = RefusalMemory(loader.load, settings.store)

    async def load(name: str) -> LoadedVersion:
        version = await memory.load(name)
        metrics.version_loads.labels(name).inc()
        return version

    live = LiveModel(load, settings.keep_loaded, settings.store, metrics.versions_loaded.set)

    def swapped(_: str) -> None:
        metrics.swaps.labels("swapped").inc()

    swapper = Swapper(settings.store, live, poll_ms=settings.poll_ms, swapped=swapped, unreachable=refusals)
    return _Versions(loader, live, swapper, refusals)


def _pointer(
    settings: ServiceSettings, metrics: Metrics, client: redis.Redis, live: LiveModel, swapper: Swapper
) -> _Pointer:
    quick = connect(settings.required_redis_url, COMMAND_TIMEOUT_S)
    membership = Membership(quick, settings.store, live, swapper, url=_url(settings), held=metrics.held)
    prepare_s = settings.cut_over_prepare_s
    coordinator = Coordinator(quick, settings.store, name=f"server {membership.id}", prepare_s=prepare_s)
    writes = StoreWrites(settings.store, coordinator, StoreCommands(client), prepare_s=prepare_s)
    return _Pointer(membership, writes, Activator(live, swapper, writes))


def _writer(settings: ServiceSettings, metrics: Metrics, sample_log: SampleLog) -> SampleWriter:
    return SampleWriter(
        sample_log,
        metrics,
        buffer_groups=settings.log_buffer_groups,
        max_groups=settings.log_max_groups,
        max_age_s=settings.log_max_age_s,
    )


def _url(settings: ServiceSettings) -> str:
    """Where others find this server, as far as it can know."""
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 (no bind)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
