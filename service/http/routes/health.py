"""Is it alive, is it ready, and its figures."""

from __future__ import annotations

import asyncio
from typing import Any

import redis
from fastapi import APIRouter, Depends, Response

from service.http.access import require_key
from service.http.schemas.health import Alive, Readiness
from service.parts import Parts, Wired
from service.telemetry.training_metrics import TrainingFigures

router = APIRouter(tags=["health"])


@router.get("/health", response_model=Alive)
async def health() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/ready", response_model=Readiness)
def ready(parts: Wired) -> dict[str, Any]:
    """A model is loaded, so /score works; `degraded` says what else does not. 503 without a model."""
    version = parts.live.current().name
    degraded = [{"part": part, "reason": reason} for part, reason in parts.condition.examine().degraded]
    return {"status": "degraded" if degraded else "ready", "version": version, "degraded": degraded}


@router.get("/metrics", dependencies=[Depends(require_key)], response_class=Response)
async def metrics(parts: Wired) -> Response:
    """Prometheus text format."""
    parts.metrics.queue_tokens.set(parts.batcher.queued_tokens)
    named = {label: target.version for label, target in parts.live.labels.items()}
    parts.metrics.serving(parts.live.current_name, named)
    parts.metrics.training.show(await asyncio.to_thread(_training, parts))
    seen = parts.oversight.drift.versions()
    parts.metrics.drift.show(
        {name: version.window().view(version.reference) for name, version in seen.items()},
        {
            (name, other): compared.window().mean_disagreement
            for name, version in seen.items()
            for other, compared in version.compared.items()
        },
    )
    return Response(parts.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _training(parts: Parts) -> TrainingFigures | None:
    try:
        return TrainingFigures.read(parts.jobs, parts.presence)
    except redis.RedisError:  # rm_redis_up says it
        return None
