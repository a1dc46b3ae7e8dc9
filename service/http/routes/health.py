"""Liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

import redis
from fastapi import APIRouter, Depends, Response

from service.http.access import RunningServer, require_key
from service.http.route import Route
from service.http.schemas.health import Alive, Readiness
from service.server import Server
from service.telemetry.training_metrics import TrainingFigures

router = APIRouter(route_class=Route, tags=["health"])


@router.get("/health", response_model=Alive)
async def health() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/ready", response_model=Readiness)
def ready(server: RunningServer) -> dict[str, Any]:
    """A model is loaded and /score works; 503 without one. `degraded` lists the parts that do not work."""
    version = server.versions.live.current().name
    health = server.oversight.health
    degraded = [{"part": part, "reason": reason} for part, reason in health.degraded(health.report())]
    return {"status": "degraded" if degraded else "ready", "version": version, "degraded": degraded}


@router.get("/metrics", dependencies=[Depends(require_key)], response_class=Response)
async def metrics(server: RunningServer) -> Response:
    """Prometheus text format."""
    server.metrics.queue_tokens.set(server.scorer.batcher.queued_tokens)
    named = {label: target.version for label, target in server.versions.live.labels.items()}
    server.metrics.show_versions(server.versions.live.current_name, named)
    server.metrics.training.show(await asyncio.to_thread(_training, server))
    seen = server.oversight.drift.versions()
    server.metrics.drift.show(
        {name: version.window().view(version.reference) for name, version in seen.items()},
        {
            (name, other): compared.window().mean_disagreement
            for name, version in seen.items()
            for other, compared in version.compared.items()
        },
    )
    return Response(server.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _training(server: Server) -> TrainingFigures | None:
    try:
        return TrainingFigures.read(server.jobs, server.presence)
    except redis.RedisError:  # rm_redis_up reports this
        return None
