"""The reward models of a run over HTTP, on a private server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experiments.closed_loop.first_model import FirstModel
from experiments.closed_loop.plan import StudyPlan
from experiments.closed_loop.records import RetrainRecord
from experiments.closed_loop.reward_models import failed_retrain, in_requests, retrain_record
from metarm.client import RewardClient
from metarm.errors import MetaRMError, TrainingError
from simulation.optimise import Groups, as_request
from simulation.private_server import PrivateServer

RETRAIN_S = 3600.0
POLL_S = 0.2
# one worker that takes a request whole, without a cache: the same batches as in process
SERVICE = {
    "METARM_TUNE": "false",
    "METARM_SCORE_WORKERS": "1",
    "METARM_SCORE_THREADS": "1",
    "METARM_BATCH_TOKENS": "1024",
    "METARM_SLICE_TOKENS": "65536",
    "METARM_SCORE_CACHE_ENTRIES": "0",
    "METARM_POLL_MS": "50",
    "METARM_WATCH_GROUPS": "0",  # candidates are measured, not rolled back
    "METARM_TRAIN_PRIORITY": "low",
    "METARM_LOG_LEVEL": "WARNING",
}


class Served:
    """A context manager around a private server, whose sample log holds this run alone."""

    def __init__(self, plan: StudyPlan, first: FirstModel, folder: Path) -> None:
        settings = {**SERVICE, **trainer_environment(plan, first.checkpoint, first.preferences)}
        self._server = PrivateServer(folder, settings)
        self._client = RewardClient(self._server.url, retries=10)
        self.version = ""

    def __enter__(self) -> Self:
        self._server.__enter__()
        self.version = self._server.serving()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._server.__exit__(kind, error, trace)

    def score(self, groups: Groups) -> list[list[float]]:
        return self._scores(groups, {"log": False})

    def reward(self, groups: Groups, step: int) -> list[list[float]]:
        return self._scores(groups, {"policy": {"name": "simulation", "step": step}})

    def retrain(self, options: Mapping[str, Any]) -> RetrainRecord:
        job = self._client.wait_for_job(
            self._client.retrain(**options)["job"], timeout_s=RETRAIN_S, poll_s=POLL_S
        )
        if job["status"] not in ("published", "rejected"):
            error = job["error"] or {"code": job["status"], "message": f"the job was {job['status']}"}
            if error["code"] == TrainingError.code:
                return failed_retrain(error["message"])
            raise MetaRMError(f"retrain {job['job']}: {error['code']}: {error['message']}")
        verdict, candidate = job["verdict"], str(job["candidate"])
        if job["status"] == "published":
            self.version = self._server.serving(candidate)
        figures = verdict["figures"]
        return retrain_record(candidate, bool(verdict["accepted"]), verdict["reasons"], figures, [])

    def _scores(self, groups: Groups, options: Mapping[str, Any]) -> list[list[float]]:
        def request(some: Groups) -> list[tuple[float, ...]]:
            result = self._client.score(as_request(some), version=self.version, **options)
            return [group.scores for group in result.groups]

        return list(in_requests(groups, request))


def trainer_environment(plan: StudyPlan, checkpoint: Path, preferences: Path) -> dict[str, str]:
    """The environment of a private server's trainer: the plan's settings, and the first version's origin."""
    trainer = {f"METARM_{name.upper()}": str(value) for name, value in plan.trainer.items()}
    return {**trainer, "METARM_MODEL": str(checkpoint), "METARM_PREFERENCES": str(preferences)}
