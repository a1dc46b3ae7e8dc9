"""GET /overview: the current state of this server. The route computes nothing: it reads existing figures."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Response

import metarm
from metarm.shared.jobs import Job
from service.http.access import Rights, RunningServer, require_key
from service.http.route import Route
from service.http.routes.labels import entries
from service.http.schemas.overview import Overview
from service.oversight.health import HealthReport
from service.server import Server

router = APIRouter(route_class=Route, tags=["health"], dependencies=[Depends(require_key)])


@router.get("/overview", response_model=Overview)
async def overview(
    server: RunningServer,
    rights: Annotated[Rights, Depends(require_key)],
    since: Annotated[float, Query(ge=0, description="Leave out the history up to this Unix time.")] = 0.0,
) -> Response:
    """Version and labels, rates and latencies of the last minute, queue, batches, Redis, trainer, and the parts
    that do not work. Cheap: polling it every second does not slow scoring."""
    body = {
        "server_version": metarm.__version__,
        "started": server.load_monitor.started,
        "rights": rights,
        "serving": server.versions.live.current_name,
        "loaded": server.versions.live.loaded_names,
        "labels": entries(server),
        "now": server.load_monitor.now(),
        "queue": {"tokens": server.scorer.batcher.queued_tokens, "limit": server.settings.queue_tokens},
        "samples_buffered": server.samples.groups_waiting,
        **_health(server.oversight.health.last, server),
        "history": server.load_monitor.history(since),
    }
    return Response(orjson.dumps(body), media_type="application/json")


def _health(found: HealthReport | None, server: Server) -> dict[str, Any]:
    degraded = server.oversight.health.degraded(found)
    return {
        "redis": None if found is None else "up" if found.redis else "down",
        "trainer": {"state": str(found.trainer.get("state"))} if found and found.trainer else None,
        "job": _job(found.job) if found and found.job else None,
        "degraded": [{"part": part, "reason": reason} for part, reason in degraded],
    }


def _job(job: Job) -> dict[str, Any]:
    progress = job.progress
    return {
        "job": job.id,
        "status": job.status,
        "step": progress.get("step", 0),
        "steps": progress.get("steps"),
    }
