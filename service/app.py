"""The composition root: builds the parts, wires the routes, maps errors to answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

import metarm
from metarm import process_environment
from metarm.cut_over import COMMAND_TIMEOUT_S, Coordinator
from metarm.errors import MetaRMError, PayloadTooLargeError, SampleLogUnavailableError
from metarm.fleet import Fleet
from metarm.forward import PrefixCache
from metarm.jobs import JobBoard
from metarm.lease_board import LeaseBoard
from metarm.sample_log import SampleLog, connect
from metarm.store_commands import StoreCommands
from service.activation import Activator
from service.batcher import Batcher
from service.drift import Drift
from service.engine import Engine
from service.idle_memory import give_back_when_idle
from service.labels import LabelWatch
from service.leases import Leases
from service.live_model import LiveModel
from service.loader import VersionLoader
from service.membership import Membership
from service.metrics import Metrics
from service.middleware import BodyLimit, Measure
from service.oversight import oversee
from service.parts import Parts
from service.refusals import Refusals
from service.retraining import Retraining
from service.routes import drift, health, labels, leases, retrain, score, versions
from service.sample_writer import SampleWriter
from service.schemas import ErrorBody
from service.score_cache import ScoreCache
from service.scorer import Scorer
from service.settings import ServiceSettings
from service.store_writes import StoreWrites
from service.swapper import Swapper
from service.tuning import choose_plan

TOKENIZER_THREADS = 2
# what the framework itself refuses, in our codes
HTTP_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: PayloadTooLargeError.code,
}


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """The service; from the environment's settings where none are given (`uvicorn --factory`)."""
    process_environment.check()
    settings = settings or ServiceSettings()
    app = FastAPI(
        title="MetaRM Server",
        version=metarm.__version__,
        description="Scores policy samples with a reward model that adapts while the policy moves.",
        lifespan=_lifespan,
        docs_url=None,  # patched in below, from files that are installed with us
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        responses={"default": {"model": ErrorBody, "description": "Any failure."}},
    )
    app.state.settings = settings
    app.state.metrics = Metrics()
    patch_fastapi(app, redirect_from_root_to_docs=False)
    for module in (score, retrain, versions, labels, leases, drift, health):
        app.include_router(module.router)
    app.add_exception_handler(MetaRMError, _on_known_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(redis.RedisError, _on_redis_error)
    app.add_exception_handler(Exception, _on_unexpected_error)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Measure, metrics=app.state.metrics)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the parts, hold them while requests are served, end them so that nothing is lost."""
    parts, loader = _build(app.state.settings, app.state.metrics)
    app.state.parts = parts
    parts.writer.start()
    await parts.membership.join()
    parts.labels.follow()
    background = [
        asyncio.create_task(parts.swapper.run(), name="swapper"),
        asyncio.create_task(parts.labels.run(), name="labels"),
        asyncio.create_task(parts.leases.run(), name="leases"),
        asyncio.create_task(give_back_when_idle(), name="idle-memory"),
        *parts.oversight.start(),
    ]
    try:
        yield
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await asyncio.to_thread(parts.membership.close)
        await parts.batcher.close()
        loader.close()
        parts.tokenizer_threads.shutdown(wait=False)
        await asyncio.to_thread(parts.writer.close)


def _build(settings: ServiceSettings, metrics: Metrics) -> tuple[Parts, VersionLoader]:
    client = connect(settings.required_redis_url)
    store = settings.store
    sample_log = SampleLog(client)
    prefixes = PrefixCache(settings.prefix_cache_mb * 2**20, metrics.looked_up_prefix)
    engine = Engine(prefixes if settings.prefix_cache_mb else None)
    batcher = Batcher(engine.score_slice, queue_tokens=settings.queue_tokens)
    figures = Drift(settings.retrain_over_groups)
    scorer = Scorer(
        engine,
        batcher,
        ScoreCache(settings.score_cache_entries),
        metrics,
        lambda model: choose_plan(model, settings),
        lambda version: figures.failed(version.name, version.manifest),
    )
    refusals = Refusals(metrics.swaps.labels("refused").inc)
    loader = VersionLoader(
        store,
        settings.max_tokens,
        share_prompts=settings.prefix_sharing,
        reduced=settings.score_dtype == "bfloat16",
        calibrated=settings.calibration,
        prepare=scorer.prepare,
        refused=refusals,
    )
    live = LiveModel(loader.load, settings.keep_loaded, store, metrics.versions_loaded.set)
    board = LeaseBoard(client, most_leases=settings.max_leases, most_versions=settings.max_leased_versions)

    def swapped(name: str) -> None:
        metrics.swaps.labels("swapped").inc()
        metrics.serving(name)

    swapper = Swapper(store, live, poll_ms=settings.poll_ms, swapped=swapped, unreachable=refusals)
    quick = connect(settings.required_redis_url, COMMAND_TIMEOUT_S)
    membership = Membership(quick, store, live, swapper, url=_url(settings), held=metrics.held)
    prepare_s = settings.cut_over_prepare_s
    coordinator = Coordinator(quick, store, name=f"server {membership.id}", prepare_s=prepare_s)
    writes = StoreWrites(store, coordinator, StoreCommands(client), prepare_s=prepare_s)
    activator = Activator(live, swapper, writes)
    tokenizer_threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
    jobs = JobBoard(client)
    writer = SampleWriter(
        sample_log,
        metrics,
        buffer_groups=settings.log_buffer_groups,
        max_groups=settings.log_max_groups,
        max_age_s=settings.log_max_age_s,
    )
    retraining = Retraining(jobs, writer, sample_log)
    oversight = oversee(
        settings,
        client=client,
        store=store,
        live=live,
        drift=figures,
        scorer=scorer,
        batcher=batcher,
        tokenizer_threads=tokenizer_threads,
        retraining=retraining,
        activate=activator.activate,
        metrics=metrics,
    )
    parts = Parts(
        settings=settings,
        store=store,
        live=live,
        batcher=batcher,
        scorer=scorer,
        swapper=swapper,
        refusals=refusals,
        labels=LabelWatch(store, live, poll_ms=settings.poll_ms),
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
    )
    return parts, loader


def _url(settings: ServiceSettings) -> str:
    """Where others find this server, as far as it can know."""
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 (no bind)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _error(status: int, code: str, message: str, details: Any = None, **headers: str) -> JSONResponse:
    body: dict[str, Any] = {"code": code, "message": message}
    if details:
        body["details"] = details
    return JSONResponse({"error": body}, status, headers=headers)


async def _on_known_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MetaRMError)  # noqa: S101 (registered for this class only)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return _error(error.status, error.code, error.message, error.details, **headers)


async def _on_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for this class only)
    # what was sent is not echoed: it may be large, or secret
    fields = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
    message = "; ".join(f"{f['field']}: {f['message']}" for f in fields[:5])
    return _error(422, "invalid_request", message, {"fields": fields[:50]})


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for this class only)
    code = HTTP_CODES.get(error.status_code, "http_error")
    return _error(error.status_code, code, error.detail, **(error.headers or {}))


async def _on_redis_error(_request: Request, error: Exception) -> Response:
    unavailable = SampleLogUnavailableError(f"Redis does not answer: {error}")
    return await _on_known_error(_request, unavailable)


async def _on_unexpected_error(_request: Request, error: Exception) -> Response:
    return _error(500, "internal_error", f"{type(error).__name__}; the server's log has the rest")
