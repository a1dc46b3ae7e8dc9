"""POST /retrain, and the state of its jobs, which the trainer runs."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from metarm.shared.jobs import public_view
from service.http.access import RunningServer, require_admin, require_key
from service.http.route import Route
from service.http.schemas.retrain import JobAccepted, JobDetail, JobState, RetrainRequest

log = logging.getLogger(__name__)
router = APIRouter(route_class=Route, prefix="/retrain", tags=["retraining"])


@router.post("", status_code=202, response_model=JobAccepted, dependencies=[Depends(require_admin)])
def retrain(server: RunningServer, body: RetrainRequest | None = None) -> dict[str, Any]:
    """Start one MetaRM run on the logged samples; 409 while another runs, 422 with too little data, 404 for an
    unknown job in `reuse`."""
    server.versions.live.current()  # raises NotReadyError before the first version
    server.retraining.check(body.reuse if body else None)
    job = server.retraining.start(body.model_dump(exclude_none=True) if body else {})
    log.info("queued %s on request", job.id, extra={"job": job.id})
    return {"job": job.id, "status": job.status, "status_url": f"/retrain/{job.id}"}


@router.get("", response_model=list[JobState], dependencies=[Depends(require_key)])
def recent_jobs(server: RunningServer, count: Annotated[int, Query(ge=1, le=50)] = 50) -> list[dict[str, Any]]:
    """The last jobs, newest first."""
    return [public_view(job) for job in server.jobs.recent(count)]


@router.get("/{job_id}", response_model=JobDetail, dependencies=[Depends(require_key)])
def job_state(job_id: str, server: RunningServer) -> dict[str, Any]:
    """Progress, learning curve and outcome of a job."""
    return public_view(server.jobs.get(job_id))


@router.delete("/{job_id}", response_model=JobState, dependencies=[Depends(require_admin)])
def cancel(job_id: str, server: RunningServer) -> dict[str, Any]:
    """Ask a job to stop before its next step; a job that has ended stays unchanged."""
    job = server.jobs.request_cancel(job_id)
    log.info("cancellation of %s requested; it is %s", job.id, job.status, extra={"job": job.id})
    return public_view(job)
