"""Reporting to trackers. Tests of a tracker that is not installed (each is an extra) are skipped."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.processes import Process
from tests.tiny import make_checkpoint
from trainer.settings import TrainerSettings
from trainer.tracking import Reporter, TrackedRun, Trackers

PATIENCE_S = 30.0
CONFIG = {"learning_rate": 1e-5, "ascent": "sgd", "ascent_rate": None, "gradient_checkpointing": False}


class ScriptedTracker(GeneralTracker):  # type: ignore[misc]
    """A tracker that raises an error at a given step, or waits at a given step."""

    name = "scripted"
    requires_logging_directory = False

    def __init__(self, *, fails_at: int | None = None, waits_at: int | None = None) -> None:
        super().__init__(_blank=True)
        self.steps: list[int] = []
        self.ended = threading.Event()
        self.waits, self.resumed = threading.Event(), threading.Event()
        self._fails_at, self._waits_at = fails_at, waits_at

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, _values: dict[str, float], step: int | None = None, **_: Any) -> None:
        if step == self._fails_at:
            raise ConnectionError("the tracker's server does not answer")
        if step == self._waits_at:
            self.waits.set()
            self.resumed.wait(60)
        assert step is not None
        self.steps.append(step)

    def finish(self) -> None:
        self.ended.set()


def tracked_run(*trackers: ScriptedTracker, most_waiting: int = 1000) -> TrackedRun:
    made = [Reporter("wandb", lambda one=one: one, most_waiting=most_waiting) for one in trackers]  # type: ignore[misc]
    return TrackedRun(made)


def test_each_tracker_receives_every_step_in_order_and_is_finished() -> None:
    trackers = ScriptedTracker(), ScriptedTracker()
    run = tracked_run(*trackers)
    run.begin(CONFIG)
    for step in range(1, 51):
        run.log("train", {"loss": 1 / step, "difference": None}, step)
    assert run.finish(PATIENCE_S) == []
    for tracker in trackers:
        assert tracker.steps == list(range(1, 51))
        assert tracker.ended.is_set()


def test_a_failing_tracker_is_dropped_and_the_others_continue(caplog: pytest.LogCaptureFixture) -> None:
    fails, works = ScriptedTracker(fails_at=3), ScriptedTracker()
    run = tracked_run(fails, works)
    run.begin(CONFIG)
    for step in range(1, 11):
        run.log("train", {"loss": 1.0}, step)
    assert len(run.finish(PATIENCE_S)) == 1
    assert (fails.steps, works.steps) == ([1, 2], list(range(1, 11)))
    assert len(caplog.records) == 1
    assert "the tracker's server does not answer" in caplog.text


def test_a_tracker_that_hangs_delays_no_step_and_the_end_only_briefly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stuck, works = ScriptedTracker(waits_at=1), ScriptedTracker()
    run = tracked_run(works, stuck, most_waiting=20)
    run.begin(CONFIG)
    for step in range(1, 61):
        run.log("train", {"loss": 1.0}, step)
        assert stuck.waits.wait(30)
        while len(works.steps) < step:
            time.sleep(0.001)
    assert len(run.finish(2.0)) == 1
    assert works.steps == list(range(1, 61))
    assert works.ended.is_set()
    assert stuck.steps == []
    assert len(caplog.records) == 1
    stuck.resumed.set()
    assert stuck.ended.wait(10), "when the tracker answers again, it is finished and its thread ends"
    assert stuck.steps == [1]


def test_a_run_that_never_begins_leaves_no_files(tmp_path: Path) -> None:
    failed: list[str] = []
    with Trackers(["tensorboard"], tmp_path, failed.append).run("job-1") as run:
        run.log("gate", {"accepted": 1.0}, 3)
    assert not (tmp_path / "tensorboard").exists()
    assert failed == []


@pytest.mark.slow
def test_metarm_train_reports_its_loss_and_held_out_accuracy(tmp_path: Path) -> None:
    backbone = make_checkpoint(tmp_path / "backbone", "bert-backbone")
    preferences = tmp_path / "pairs.jsonl"
    rows = [f'{{"prompt": "{n}?", "chosen": "It is forty two.", "rejected": "No."}}' for n in range(120)]
    preferences.write_text("\n".join(rows))
    data_dir = tmp_path / "data"
    command = [sys.executable, "-m", "trainer.first_model", "--preferences", str(preferences)]
    command += ["--model", str(backbone), "--init-head", "--data-dir", str(data_dir)]
    command += ["--steps", "6", "--evaluate-every", "3", "--report-to", "tensorboard"]
    with Process(command, tmp_path / "output.txt", {"METARM_LOG_FORMAT": "json"}) as process:
        assert process.wait(120) == 0, process.output
    events = EventAccumulator(str(data_dir / "tensorboard" / "first-model")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("eval/held_out_accuracy")] == [0, 3, 6]


def test_a_missing_tracker_package_is_reported_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainerSettings(report_to="tensorboard, none").report_to == ["tensorboard"]
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'metarm-server\[wandb\]'"):
        TrainerSettings(report_to="wandb")
    with pytest.raises(ValueError, match="tensorboard"):
        TrainerSettings(report_to="tensorbored")


@pytest.mark.filterwarnings("ignore")
def test_wandb_records_the_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    failed: list[str] = []
    with Trackers(["wandb"], tmp_path, failed.append).run("job-1") as run:
        run.begin(CONFIG)
        run.log("train", {"loss": 0.5}, 1)
        run.log("gate", {"held_out_accuracy": 0.75}, 1)
    assert failed == []
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    written = record.read_bytes()
    for name in (b"train/loss", b"gate/held_out_accuracy", b"learning_rate", b"job-1", b"metarm"):
        assert name in written


@pytest.mark.filterwarnings("ignore")  # from MLflow's own dependencies
def test_mlflow_records_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    failed: list[str] = []
    with Trackers(["mlflow"], tmp_path, failed.append).run("job-1") as run:
        run.begin(CONFIG)
        for step in (1, 2):
            run.log("train", {"loss": 0.5 / step}, step)
        run.log("gate", {"held_out_accuracy": 0.75}, 2)
    assert failed == []
    client = mlflow.MlflowClient()
    (kept,) = client.search_runs([client.get_experiment_by_name("metarm").experiment_id])
    assert kept.info.run_name == "job-1"
    assert kept.data.params["ascent"] == "sgd"
    assert kept.data.metrics["gate/held_out_accuracy"] == 0.75
    assert [m.value for m in client.get_metric_history(kept.info.run_id, "train/loss")] == [0.5, 0.25]
