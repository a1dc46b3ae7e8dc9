"""Many runs in worker processes. Each finished run is kept in a file and is not repeated."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from tqdm import tqdm

import metarm
from experiments.closed_loop.content import digest
from experiments.closed_loop.plan import Arm, StudyPlan
from experiments.closed_loop.play import play
from experiments.closed_loop.records import ArmRun, Study, read_run, write_run
from metarm.errors import ClientError, MetaRMError
from metarm.runtime import process_environment
from metarm.runtime.processes import without_settings

Mode = Literal["in-process", "served"]
T = TypeVar("T")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One seed and one arm of a plan; `folder` keeps runs and first models."""

    plan: StudyPlan
    mode: Mode
    seed: int
    arm: Arm
    folder: Path

    @property
    def file(self) -> Path:
        """The file of its run; the name depends on plan, arm, mode and code."""
        made_from = {"plan": asdict(self.plan), "arm": asdict(self.arm), "mode": self.mode}
        name = f"{self.mode}-seed-{self.seed}-{self.arm.name.replace(' ', '-')}-{digest(made_from)}.json"
        return self.folder / "runs" / name

    @property
    def models(self) -> Path:
        return self.folder / "models"


def run_study(
    plan: StudyPlan, arms: Mapping[str, Arm], seeds: Sequence[int], mode: Mode, workers: int, folder: Path
) -> Study:
    """Run the missing runs, `workers` at a time; on a terminal, stderr shows their progress.

    Raises what a run raises; finished runs are kept.
    """
    # by seed, so that a study cut short has whole seeds to compare
    jobs = [Job(plan, mode, seed, arm, folder) for seed in seeds for arm in arms.values()]
    missing = [job for job in jobs if not job.file.is_file()]
    if missing:
        with worker_pool(workers) as pool:
            one_a_seed = {job.seed: job for job in missing}.values()
            _run_all(pool, workers, _make_first_model, one_a_seed, "first reward models")
            _run_all(pool, workers, _run, missing, "runs")
    runs = [read_run(job.file) for job in jobs]
    options = {
        name: {**plan.retrain, **(arm.retrain or {})} if arm.retrain else {} for name, arm in arms.items()
    }
    return Study(mode, metarm.__version__, asdict(plan), options, runs)


def in_worker(call: Callable[..., T], *arguments: object) -> T:
    """Call in a process of its own, with one thread and without the user's settings; returns the result."""
    with worker_pool(1) as pool:
        return pool.submit(call, *arguments).result()


def worker_pool(count: int) -> ProcessPoolExecutor:
    """Worker processes, each with one thread and without the user's settings."""
    os.environ.update({**process_environment.REQUIRED, **ONE_THREAD})  # the workers inherit it
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin)


def _run_all(
    pool: ProcessPoolExecutor, workers: int, run: Callable[[Job], None], jobs: Collection[Job], what: str
) -> None:
    """Submit at most `workers` jobs at a time: after an error or Ctrl-C no worker starts another."""
    waiting = iter(jobs)
    running = {pool.submit(run, job) for job in islice(waiting, workers)}
    with tqdm(total=len(jobs), desc=what, unit="run", disable=None, leave=False) as bar:
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                bar.update()
            running |= {pool.submit(run, job) for job in islice(waiting, len(done))}


def _begin() -> None:
    """Initialise a worker process: one thread, and none of the user's settings."""
    for name in os.environ.keys() - without_settings().keys():
        del os.environ[name]
    import torch

    from metarm.model.reward_model import quiet_transformers

    torch.set_num_threads(1)
    quiet_transformers()


def _make_first_model(job: Job) -> None:
    from experiments.closed_loop.first_model import first_model

    first_model(job.plan, job.seed, job.models)


def _run(job: Job) -> None:
    """Run and keep a job. A ClientError cannot be unpickled, so it is raised as a MetaRMError."""
    try:
        write_run(run_one(job), job.file)
    except ClientError as error:
        raise MetaRMError(error.message) from None


def run_one(job: Job) -> ArmRun:
    """The run, in this process; its versions are in a temporary folder."""
    from experiments.closed_loop.first_model import first_model
    from experiments.closed_loop.in_process import InProcess
    from experiments.closed_loop.served import Served

    first = first_model(job.plan, job.seed, job.models)
    with tempfile.TemporaryDirectory(prefix="metarm-simulate-") as folder:
        if job.mode == "in-process":
            return play(job.plan, job.arm, job.seed, InProcess(job.plan, first, Path(folder)))
        with Served(job.plan, first, Path(folder)) as served:
            return play(job.plan, job.arm, job.seed, served)
