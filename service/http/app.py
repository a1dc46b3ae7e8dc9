"""The HTTP application: routes, middleware and error answers around one running server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_swagger import patch_fastapi

import metarm
from metarm.runtime import process_environment, tracing
from service import server
from service.http.errors import answer_errors
from service.http.middleware import Canonical, Identify, Linger, Measure
from service.http.routes import drift, health, labels, leases, overview, page, retrain, score, versions
from service.http.schemas.fields import ErrorBody
from service.settings import ServiceSettings
from service.telemetry.load_monitor import LoadMonitor
from service.telemetry.metrics import Metrics

UNTRACED = frozenset({"/health", "/ready", "/metrics"})  # polled by machines


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """The application for `settings`, by default the environment's (`uvicorn --factory`). Raises
    ConfigurationError."""
    process_environment.check()
    settings = settings or ServiceSettings.parse("metarm serve", [])
    metrics, load_monitor = Metrics(), LoadMonitor()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with server.running(settings, metrics, load_monitor) as app.state.server:
            yield

    app = FastAPI(
        title="MetaRM Server",
        version=metarm.__version__,
        description="Scores policy samples with a reward model that adapts while the policy moves.",
        lifespan=lifespan,
        docs_url=None,  # served below, from installed files
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # a redirect would lose the prefix that a proxy removed: Canonical serves both
        strict_content_type=False,  # a body without a content type is JSON
        responses={"default": {"model": ErrorBody, "description": "Any failure."}},
        telemetry=_telemetry(),
    )
    patch_fastapi(app, redirect_from_root_to_docs=False)
    for module in (score, retrain, versions, labels, leases, drift, overview, health, page):
        app.include_router(module.router)
    answer_errors(app)
    app.add_middleware(Measure, metrics=metrics, on_answer=load_monitor.answered)
    app.add_middleware(Canonical)
    app.add_middleware(Linger, max_bytes=settings.max_body_bytes)
    app.add_middleware(Identify)
    return app


def _telemetry() -> TelemetryConfig:
    """Spans of requests if spans are exported; none of FastAPI's other signals."""
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
