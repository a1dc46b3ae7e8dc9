"""The application: routes, middleware, and the parts behind them from start to end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_swagger import patch_fastapi

import metarm
from metarm.runtime import process_environment, tracing
from metarm.runtime.loops import again_and_again
from service.assembly import assemble
from service.http.errors import answer_errors
from service.http.middleware import BodyLimit, Identify, Measure
from service.http.routes import drift, health, labels, leases, overview, page, retrain, score, versions
from service.http.schemas.fields import ErrorBody
from service.oversight import health as condition
from service.parts import Parts
from service.scoring.idle_memory import give_back_when_idle
from service.settings import ServiceSettings
from service.telemetry import pulse
from service.telemetry.metrics import Metrics

UNTRACED = frozenset({"/health", "/ready", "/metrics"})  # asked again and again, by machines


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
        telemetry=_telemetry(),
    )
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.pulse = pulse.Pulse()
    patch_fastapi(app, redirect_from_root_to_docs=False)
    for module in (score, retrain, versions, labels, leases, drift, overview, health, page):
        app.include_router(module.router)
    answer_errors(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Measure, metrics=app.state.metrics, answered=app.state.pulse.answered)
    app.add_middleware(Identify)
    return app


def _telemetry() -> TelemetryConfig:
    """Spans of requests, where spans are exported; of FastAPI's own signals that alone."""
    provider = tracing.begin("metarm-service")
    return {
        "tracing": provider is not None,
        "tracer_provider": provider,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope.get("path") in UNTRACED,
    }


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the parts, hold them while requests are served, end them so that nothing is lost."""
    parts = app.state.parts = assemble(app.state.settings, app.state.metrics, app.state.pulse)
    parts.writer.start()
    await parts.membership.join()
    parts.labels.follow()
    background = [
        asyncio.create_task(parts.swapper.run(), name="swapper"),
        asyncio.create_task(parts.labels.run(), name="labels"),
        asyncio.create_task(parts.leases.run(), name="leases"),
        asyncio.create_task(give_back_when_idle(), name="idle-memory"),
        asyncio.create_task(again_and_again(_take_the_pulse(parts), pulse.EVERY_S), name="pulse"),
        asyncio.create_task(again_and_again(parts.condition.look, condition.EVERY_S), name="condition"),
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
        parts.loader.close()
        parts.tokenizer_threads.shutdown(wait=False)
        await asyncio.to_thread(parts.writer.close)
        await asyncio.to_thread(tracing.end)


def _take_the_pulse(parts: Parts) -> Callable[[], Awaitable[None]]:
    async def look() -> None:
        parts.pulse.look(parts.batcher, parts.live.current_name)

    return look
