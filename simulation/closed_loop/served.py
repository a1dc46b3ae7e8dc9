"""The reward models of a run over HTTP: a private `metarm up` with its own Redis, port and data folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from metarm.client import RewardClient
from metarm.errors import ClientError, MetaRMError, TrainingError
from simulation.closed_loop.first_model import FirstModel
from simulation.closed_loop.plan import StudyPlan
from simulation.closed_loop.records import RetrainRecord
from simulation.closed_loop.reward_models import failed_retrain, in_requests, retrain_record
from simulation.optimise import Groups

START_S = 300.0
STOP_S = 120.0
RETRAIN_S = 3600.0
POLL_S = 0.2
# one worker that takes a request whole, and computes everything: the same batches as in process
SERVICE = {
    "METARM_TUNE": "false",
    "METARM_SCORE_WORKERS": "1",
    "METARM_SCORE_THREADS": "1",
    "METARM_BATCH_TOKENS": "1024",
    "METARM_SLICE_TOKENS": "65536",
    "METARM_SCORE_CACHE_ENTRIES": "0",
    "METARM_POLL_MS": "50",
    "METARM_WATCH_GROUPS": "0",  # what a variant makes is measured, not taken back
    "METARM_TRAIN_PRIORITY": "low",
    "METARM_LOG_LEVEL": "WARNING",
}


class Served:
    """Inside the block a server runs, which nothing else has used: its sample log holds this run alone."""

    def __init__(self, plan: StudyPlan, first: FirstModel, folder: Path) -> None:
        self._folder = folder
        self._port = _free_port()
        self._environment = _environment(plan, first, folder, self._port)
        self._process: subprocess.Popen[bytes] | None = None
        self._client = RewardClient(f"http://127.0.0.1:{self._port}", retries=10)
        self.version = ""

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "metarm.cli", "up"],
                env=self._environment,
                cwd=self._folder,  # no .env of the user's
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            self.version = self._when_ready(None, START_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

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
            self.version = self._when_ready(candidate, START_S)
        figures = verdict["figures"]
        return retrain_record(candidate, bool(verdict["accepted"]), verdict["reasons"], figures, [])

    def _scores(self, groups: Groups, options: Mapping[str, Any]) -> list[list[float]]:
        def request(some: Groups) -> list[tuple[float, ...]]:
            body = [
                {"prompt": group[0].task.prompt, "responses": [response.text for response in group]}
                for group in some
            ]
            result = self._client.score(body, version=self.version, **options)
            return [group.scores for group in result.groups]

        return list(in_requests(groups, request))

    def _when_ready(self, version: str | None, timeout_s: float) -> str:
        """The version served, once there is one, and it is `version` where that is asked for."""
        deadline = time.monotonic() + timeout_s
        with RewardClient(f"http://127.0.0.1:{self._port}", retries=0) as once:
            while True:
                try:
                    serving = str(once.ready()["version"])
                    if version in (None, serving):
                        return serving
                except ClientError as error:
                    if error.http_status not in (None, 503):
                        raise
                assert self._process is not None  # noqa: S101 (inside the block)
                if self._process.poll() is not None or time.monotonic() > deadline:
                    ending = self._output.read_text()[-2000:]
                    raise MetaRMError(
                        f"the server for this run does not serve {version or 'anything'}:\n{ending}"
                    )
                time.sleep(POLL_S)

    def _stop(self) -> None:
        self._client.close()
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _output(self) -> Path:
        return self._folder / "server.txt"


def _environment(plan: StudyPlan, first: FirstModel, folder: Path, port: int) -> dict[str, str]:
    """The server's environment: nothing of the user's own settings."""
    theirs = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("METARM_") and name not in ("REDIS_URL", "PREFERENCES")
    }
    ours = {
        "METARM_DATA_DIR": str(folder / "data"),
        "METARM_PORT": str(port),
        "METARM_MODEL": str(first.checkpoint),
        "METARM_PREFERENCES": str(first.preferences),
    }
    trainer = {f"METARM_{name.upper()}": str(value) for name, value in plan.trainer.items()}
    return {**theirs, **SERVICE, **trainer, **ours}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
