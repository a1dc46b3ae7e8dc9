"""POST /retrain and the jobs it makes. The trainer runs them; here they are asked for and watched."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from metarm.errors import NotEnoughDataError, TrainerUnavailableError
from metarm.jobs import public_view
from service.access import require_admin, require_key
from service.parts import Parts, Wired
from service.schemas import JobAccepted, JobState, RetrainRequest

router = APIRouter(prefix="/retrain", tags=["retraining"])
FLUSH_S = 5.0  # samples answered just before this call count as well


@router.post("", status_code=202, response_model=JobAccepted, dependencies=[Depends(require_admin)])
def retrain(parts: Wired, body: RetrainRequest | None = None) -> dict[str, Any]:
    """Start one MetaRM run on the logged samples; 409 while another runs, 422 with too little data."""
    parts.live.current()  # before the first version there is nothing to adapt
    trainer = parts.jobs.trainer()
    if trainer is None:
        raise TrainerUnavailableError("no trainer is running: start one (`metarm trainer`) and ask again")
    if trainer["state"] != "ready":
        raise TrainerUnavailableError("the trainer is still starting: ask again in a few seconds")
    _check_data(trainer, parts)
    options = body.model_dump(exclude_none=True) if body else {}
    job = parts.jobs.create(options)
    return {"job": job.id, "status": job.status, "status_url": f"/retrain/{job.id}"}


@router.get("", response_model=list[JobState], dependencies=[Depends(require_key)])
def recent_jobs(parts: Wired) -> list[dict[str, Any]]:
    """The last 50 jobs, newest first."""
    return [public_view(job) for job in parts.jobs.recent(50)]


@router.get("/{job_id}", response_model=JobState, dependencies=[Depends(require_key)])
def job_state(job_id: str, parts: Wired) -> dict[str, Any]:
    """How far a job is, and how it ended."""
    return public_view(parts.jobs.get(job_id))


@router.delete("/{job_id}", response_model=JobState, dependencies=[Depends(require_admin)])
def cancel(job_id: str, parts: Wired) -> dict[str, Any]:
    """Ask a job to stop before its next step; one that has ended stays as it is."""
    return public_view(parts.jobs.request_cancel(job_id))


def _check_data(trainer: dict[str, Any], parts: Parts) -> None:
    if "preferences_error" in trainer:
        raise NotEnoughDataError(f"the trainer cannot use its preferences: {trainer['preferences_error']}")
    parts.writer.flush(FLUSH_S)
    have = {"groups": parts.sample_log.count_unused(trainer["min_groups"]), "pairs": trainer["preferences"]}
    need = {"groups": trainer["min_groups"], "pairs": trainer["min_preferences"]}
    if have["groups"] < need["groups"]:
        raise NotEnoughDataError(
            f"{have['groups']} unused sample groups with two or more responses are logged; "
            f"{need['groups']} are needed",
            have=have,
            need=need,
        )
    if have["pairs"] < need["pairs"]:
        raise NotEnoughDataError(
            f"{have['pairs']} training preferences; {need['pairs']} are needed", have=have, need=need
        )
