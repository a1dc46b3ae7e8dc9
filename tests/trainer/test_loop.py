"""A retrain job from its samples to its end, with a real Redis, a real store and a tiny real model."""

from __future__ import annotations

import errno
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarm.errors import CutOverAbortedError
from metarm.model import probe
from metarm.model.reward_model import RewardModel, load_model, load_version
from metarm.records import ASCENT_RATES, PolicyStamp, Preference, SampleGroup
from metarm.runtime.code_version import code_version
from metarm.runtime.loops import Loops
from metarm.shared.jobs import Job, JobBoard
from metarm.shared.keys import ACTIVE_JOB, LEASES, TRAINER, job_key
from metarm.shared.leases import leased_versions
from metarm.shared.presence import TrainerPresence
from metarm.shared.sample_log import LoggedRequest, SampleLog
from metarm.store.calibration import IDENTITY, Calibration
from metarm.store.held_out import held_out_accuracy
from metarm.store.retention import Retention
from metarm.store.versions import Label, VersionStore, version_number
from tests.demo_groups import demo_groups
from tests.processes import wait_until
from tests.store import publish
from tests.tiny import Kind, dated_checkpoint
from trainer import loop, retrain
from trainer.heartbeat import Heartbeat, TrainerReplacedError
from trainer.loop import MAX_ATTEMPTS, Trainer
from trainer.preferences import Preferences
from trainer.settings import TrainerSettings
from trainer.tracking import Trackers
from trainer.training import TrainReport, train

GROUPS = 6


@dataclass
class Bench:
    """A trainer in this process, with its store, jobs, samples and preferences."""

    trainer: Trainer
    store: VersionStore
    jobs: JobBoard
    log: SampleLog
    heartbeat: Heartbeat
    preferences: Preferences
    promote: Callable[
        [str], object
    ]  # initially `activate`, like a coordinator without servers; a test may replace it

    def swap_training_pairs(self) -> None:
        """Swap chosen and rejected in the training pairs, but not in the held-out pairs."""
        train = self.preferences.of_first().train
        train[:] = [Preference(p.prompt, p.rejected, p.chosen) for p in train]

    def work_until_idle(self) -> None:
        """Run the trainer until no job is active."""
        stop = threading.Event()
        worker = threading.Thread(target=self.trainer.run, args=(stop,))
        worker.start()
        deadline = time.monotonic() + 60
        while self.jobs.active() is not None and worker.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()
        worker.join()

    def run(self, **options: Any) -> Job:
        job = self.jobs.create(options)
        self.work_until_idle()
        return self.jobs.get(job.id)


@pytest.fixture
def preference_file(tmp_path: Path) -> Path:
    # the same response is always chosen, so a tiny model learns it in a few updates, for unseen prompts too
    rows = [
        {"prompt": g["prompt"][:60], "chosen": "It is forty two.", "rejected": "Compare the two trains."}
        for g in demo_groups(120)
    ]
    file = tmp_path / "preferences.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


@pytest.fixture
def make_bench(
    tmp_path: Path, redis_client: redis.Redis, checkpoint: Callable[[Kind], Path], preference_file: Path
) -> Iterator[Callable[..., Bench]]:
    publish(tmp_path, checkpoint("bert"))
    made: list[Bench] = []

    def make(**changes: Any) -> Bench:
        given: dict[str, Any] = {
            "preferences": preference_file,
            "min_groups": GROUPS,
            "steps": 3,
            "batch_size": 4,
        } | changes
        settings = TrainerSettings(data_dir=tmp_path, **given)
        jobs, log = JobBoard(redis_client), SampleLog(redis_client)
        heartbeat = Heartbeat(TrainerPresence(redis_client), Loops())
        assert heartbeat.take_place({}, threading.Event())
        preferences = Preferences(settings)
        retention = Retention(
            settings.store,
            partial(leased_versions, redis_client),
            settings.keep_versions,
            settings.retention_grace_s,
        )
        trackers = Trackers(settings.report_to, tmp_path, jobs.tracker_failed)
        trainer = Trainer(
            settings,
            settings.store,
            jobs,
            log,
            preferences,
            heartbeat,
            retention,
            lambda version: bench.promote(version),
            trackers,
            Loops(pause_s=0.01).add("job-loop"),
        )
        bench = Bench(trainer, settings.store, jobs, log, heartbeat, preferences, settings.store.activate)
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.heartbeat.close()


def log_samples(log: SampleLog, count: int = GROUPS) -> None:
    for place, group in enumerate(demo_groups(count)):
        sample = SampleGroup(
            id=str(place),
            request_id=f"{time.monotonic_ns()}",
            prompt=group["prompt"][:60],
            responses=tuple(text[:40] for text in group["responses"]),
            scores=(0.0, 1.0),
            version="v000001",
            scored_at=time.time(),
            policy=PolicyStamp("actor", place),
        )
        log.append([LoggedRequest(sample.request_id, (sample,), 60)])


def test_a_tracked_run_has_the_job_id_every_step_and_the_figures_of_the_gate(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make_bench(gate_tolerance=1.0, report_to="tensorboard")
    log_samples(bench.log)
    job = bench.run(ascent="sgd", steps=4, learning_rate=1e-4)
    assert job.status == "published", job
    events = EventAccumulator(str(tmp_path / "tensorboard" / job.id)).Reload()
    for name in ("loss", "difference", "grad_norm", "learning_rate"):
        assert [event.step for event in events.Scalars(f"train/{name}")] == [1, 2, 3, 4]
    rates = [event.value for event in events.Scalars("train/learning_rate")]
    assert max(rates) == pytest.approx(1e-4)
    assert rates[-1] < rates[0]
    assert job.verdict is not None
    for name, figure in job.verdict["figures"].items():
        if figure is not None:
            (event,) = events.Scalars(f"gate/{name}")
            assert (event.step, event.value) == (4, pytest.approx(figure))
    assert events.Scalars("gate/accepted")[0].value == 1.0
    (parameters,) = (tmp_path / "tensorboard" / job.id).glob("*/hparams.yml")
    kept = yaml.safe_load(parameters.read_text())
    assert (kept["learning_rate"], kept["ascent"], kept["parent"]) == (1e-4, "sgd", "v000001")
    assert bench.jobs.tracker_failures() == {}


def test_a_failing_tracker_does_not_fail_the_run_and_is_logged_once_and_counted(
    make_bench: Callable[..., Bench], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("a file, where a folder is to be")
    bench = make_bench(gate_tolerance=1.0, report_to="tensorboard")
    log_samples(bench.log)
    job = bench.run()
    assert job.status == "published", job
    assert bench.jobs.tracker_failures() == {"tensorboard": 1}
    messages = [record.getMessage() for record in caplog.records if record.name == "trainer.tracking"]
    assert len(messages) == 1
    assert messages[0].startswith("the run goes on without tensorboard: ")


@pytest.mark.parametrize(
    ("ascent", "method"), [("sgd", "metarm"), ("shared_adam", "metarm"), ("none", "vanilla")]
)
def test_a_run_publishes_an_accepted_candidate_and_acknowledges_its_samples(
    make_bench: Callable[..., Bench], ascent: str, method: str
) -> None:
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)
    job = bench.run(ascent=ascent)
    assert job.status == "published", job
    assert job.candidate == bench.store.current() == "v000002"
    manifest = bench.store.verify("v000002")
    assert manifest["parent"] == "v000001"
    assert manifest["method"] == method
    assert manifest["settings"]["steps"] == 3
    assert (manifest["metrics"]["difference_last"] is not None) == (method == "metarm")
    curve = bench.store.curve("v000002")
    assert curve
    figures = manifest["verdict"]["figures"]
    accuracies = [(point["step"], point["accuracy"]) for point in curve["held_out_accuracy"]]
    assert accuracies == [(0, figures["parent_accuracy"]), (3, figures["held_out_accuracy"])]
    assert job.curve == {"steps": [1, 2, 3], "loss": curve["loss"], "difference": curve["difference"]}
    assert all((difference is not None) == (method == "metarm") for difference in curve["difference"])
    assert bench.log.count_unused(100) == 0
    assert bench.jobs.active() is None


def test_a_child_reads_text_as_its_parent_does(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make_bench(gate_tolerance=1.0, max_tokens=128)
    encoding = {"max_tokens": 96, "template_date": "2024-07-26", "split_special_tokens": True}
    publish(tmp_path, dated_checkpoint(tmp_path / "dated"), encoding=encoding)
    log_samples(bench.log)
    job = bench.run(ascent="none")
    assert job.status == "published", job
    manifest = bench.store.verify(str(job.candidate))
    assert manifest["encoding"] == {"format": "chat", **encoding}
    probe.check(load_version(bench.store.path(str(job.candidate)), manifest, 512), manifest)


@pytest.mark.parametrize("trainable", ["lora", "head"])
def test_a_run_on_part_of_the_parameters_publishes_a_complete_version_with_its_settings(
    make_bench: Callable[..., Bench], trainable: str
) -> None:
    bench = make_bench(gate_tolerance=1.0, lora_rank=4, gradient_checkpointing=True)
    log_samples(bench.log)
    job = bench.run(trainable=trainable, label_smoothing=0.1, center_rewards_coefficient=0.01)
    assert job.status == "published", job
    recorded = bench.store.verify("v000002")["settings"]
    expected = {
        "trainable": trainable,
        "lora_rank": 4,
        "lora_alpha": 32,
        "label_smoothing": 0.1,
        "center_rewards_coefficient": 0.01,
        "gradient_checkpointing": True,
        "train_precision": "float32",
    }
    assert {name: recorded[name] for name in expected} == expected
    before = load_model(bench.store.path("v000001"), 128).network.state_dict()
    assert load_model(bench.store.path("v000002"), 128).network.state_dict().keys() == before.keys()


@pytest.mark.slow
def test_a_candidate_that_unlearned_the_preferences_is_rejected_and_its_reasons_are_kept(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(gate_max_scale=1000)  # the first model has almost constant scores
    log_samples(bench.log)
    learned = bench.run(steps=40, learning_rate=3e-3)
    assert learned.status == "published"
    assert learned.verdict is not None
    assert learned.verdict["figures"]["held_out_accuracy"] == 1.0
    bench.swap_training_pairs()
    log_samples(bench.log)
    job = bench.run(steps=40, learning_rate=3e-3)
    assert job.status == "rejected", job
    assert job.verdict is not None
    assert "held-out accuracy fell" in job.verdict["reasons"][0]
    assert bench.store.current() == "v000002"
    assert bench.store.manifest("v000003")["verdict"]["accepted"] is False
    assert bench.store.names() == ["v000001", "v000002"]
    assert bench.log.count_unused(100) == 0  # a rejected run acknowledges its samples too


@pytest.fixture
def unlearning(make_bench: Callable[..., Bench]) -> Bench:
    """A trainer whose version has learned the preferences, and whose training pairs are then swapped."""
    bench = make_bench(gate_max_scale=1000, steps=40, learning_rate=3e-3)
    log_samples(bench.log)
    assert bench.run().status == "published"
    bench.swap_training_pairs()
    log_samples(bench.log)
    return bench


def test_a_forced_candidate_is_published_with_the_reasons_of_its_rejection(unlearning: Bench) -> None:
    job = unlearning.run(force=True)
    assert (job.status, job.candidate) == ("published", "v000003")
    assert job.verdict is not None
    manifest = unlearning.store.verify("v000003")
    for verdict in (job.verdict, manifest["verdict"]):
        assert (verdict["accepted"], verdict["forced"]) == (False, True)
        assert "held-out accuracy fell" in verdict["reasons"][0]
        assert len(verdict["remedies"]) == len(verdict["reasons"])
    assert "force" not in manifest["settings"]
    assert unlearning.store.current() == "v000003"


REFUSING = {"gate_max_scale": 1.0}  # no retrain keeps exactly the spread of its parent's rewards


def test_a_rejection_names_its_remedies_in_the_job_the_manifest_and_the_log(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench(gate_tolerance=1.0, gate_significance=0.0, **REFUSING)
    log_samples(bench.log)
    job = bench.run(learning_rate=1e-3)
    assert job.status == "rejected", job
    assert job.verdict is not None
    assert job.candidate is not None
    (reason,), (remedy,) = job.verdict["reasons"], job.verdict["remedies"]
    assert "learning_rate 0.0005 instead of 0.001" in remedy
    assert bench.store.manifest(job.candidate)["verdict"]["remedies"] == [remedy]
    assert f"{job.id}: rejected {job.candidate} {reason} → {remedy}" in caplog.text
    assert f'{{"reuse": "{job.id}"}} of POST /retrain' in caplog.text


def test_a_rejected_manifest_without_remedies_is_read_as_before(
    make_bench: Callable[..., Bench], redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench(gate_tolerance=1.0, gate_significance=0.0, **REFUSING)
    log_samples(bench.log)
    job = bench.run()
    assert job.candidate is not None
    manifest = bench.store.manifest(job.candidate)
    del manifest["verdict"]["remedies"], manifest["samples"]["ranges"], manifest["samples"]["reused_from"]
    (bench.store.root / "rejected" / f"{job.candidate}.json").write_text(json.dumps(manifest))
    bench.jobs.save(job.with_changes(status="running", finished=None, verdict=None, ranges=None))
    redis_client.set(ACTIVE_JOB, job.id)
    caplog.clear()
    bench.work_until_idle()
    assert bench.jobs.get(job.id).status == "rejected"
    assert f"rejected {job.candidate} {manifest['verdict']['reasons'][0]}" in caplog.text
    again = bench.run(reuse=job.id)  # the manifest has the range that the record lacks
    assert again.samples is not None
    assert again.samples["reused"] == GROUPS


def test_a_rejected_run_is_repeated_on_its_samples(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(gate_tolerance=1.0, gate_significance=0.0, **REFUSING)
    log_samples(bench.log)
    first = bench.run()
    assert first.status == "rejected"
    assert bench.log.count_unused(100) == 0
    log_samples(bench.log, 2)
    again = bench.run(reuse=first.id)
    assert (again.status, again.error) == ("rejected", None)
    assert again.samples == {
        "used": GROUPS + 2,
        "superseded": 0,
        "single_response": 0,
        "unreadable": 0,
        "reused": GROUPS,
        "trimmed": 0,
    }
    manifest = bench.store.manifest(str(again.candidate))
    assert manifest["samples"]["reused_from"] == first.id
    assert manifest["verdict"]["figures"]["recent_groups"] == GROUPS + 2
    assert "reuse" not in manifest["settings"]
    assert bench.log.count_unused(100) == 0
    third = bench.run(reuse=again.id)
    assert third.samples is not None
    assert third.samples["reused"] == GROUPS + 2


def raises(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def test_a_run_that_failed_after_it_had_read_its_samples_can_be_reused(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(gate_tolerance=1.0, gate_significance=0.0)
    log_samples(bench.log)
    with monkeypatch.context() as broken:
        broken.setattr(loop, "load_version", raises(OSError(errno.ESTALE, "Stale file handle")))
        failed = bench.run()
    assert failed.status == "failed"
    log_samples(bench.log, 1)
    again = bench.run(reuse=failed.id)
    assert again.status == "published", again
    assert again.samples is not None
    assert (again.samples["used"], again.samples["reused"]) == (GROUPS + 1, GROUPS)
    assert bench.log.count_unused(100) == 0


def test_a_run_cannot_reuse_a_job_that_read_nothing_or_that_is_unknown(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    failed = bench.run()
    for named, code, text in (
        (failed.id, "not_enough_data", "no recorded samples"),
        ("job-000000000000", "unknown_job", "there is no retrain job"),
    ):
        error = bench.run(reuse=named).error
        assert error is not None
        assert error["code"] == code
        assert text in error["message"]


@pytest.mark.slow
def test_a_candidate_with_non_finite_scores_is_not_published_by_force(
    unlearning: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: RewardModel, *rest: Any) -> TrainReport:
        report = train(model, *rest)
        with torch.no_grad():
            next(model.network.classifier.parameters())[0, 0] = math.nan
        return report

    monkeypatch.setattr(retrain, "train", broken)
    job = unlearning.run(force=True)
    assert job.status == "rejected"
    assert job.verdict is not None
    assert job.verdict["forced"] is False
    assert job.verdict["reasons"] == ["the candidate answers scores that are not finite numbers"]
    assert unlearning.store.current() == "v000002"


def test_a_published_version_keeps_its_parents_score_scale_and_records_its_sources(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(gate_tolerance=1.0, gate_significance=0.0, gate_max_scale=1000)
    log_samples(bench.log)
    assert bench.run(ascent="none", learning_rate=1e-3).status == "published"
    log_samples(bench.log)
    assert bench.run(ascent="none", learning_rate=1e-3).status == "published"
    second, third = bench.store.verify("v000002"), bench.store.verify("v000003")
    for manifest in (second, third):
        probe.check(load_model(bench.store.path(manifest["name"]), 512), manifest)
        assert Calibration.of(manifest) != IDENTITY
        assert manifest["code_version"] == code_version()
        assert manifest["verdict"]["thresholds"]["gate_tolerance"] == 1.0
        assert manifest["verdict"]["figures"]["recent_groups"] == GROUPS
        record = manifest["preferences"]
        assert (record["pairs"] + record["held_out_pairs"], record["held_out_share"]) == (120, 0.15)
        assert len(record["sha256"]) == 64
    assert third["samples"]["policy_steps"] == [0, GROUPS - 1]
    assert third["samples"]["first_entry"] > second["samples"]["last_entry"]
    for figure in ("median", "iqr"):
        assert third["reference"][figure] == pytest.approx(second["reference"][figure])
    assert third["reference"]["digest"] == second["reference"]["digest"]


def test_versions_without_a_reason_to_stay_are_pruned_after_a_publication(
    make_bench: Callable[..., Bench], redis_client: redis.Redis
) -> None:
    bench = make_bench(gate_tolerance=1.0, gate_significance=0.0, keep_versions=1, retention_grace_s=0, steps=1)
    bench.store.set_label("stable", Label("v000001"))
    redis_client.hset(LEASES, "a", f"{int(1000 * (time.time() + 600))} v000002")
    for _ in range(5):
        log_samples(bench.log)
        assert bench.run(ascent="none").status == "published"
    manifests = {name: bench.store.manifest(name) for name in bench.store.statuses()}
    best = max(
        (held_out_accuracy(manifest) or 0.0, version_number(name)) for name, manifest in manifests.items()
    )[1]
    stay = {"v000001", "v000002", "v000005", "v000006", f"v{best:06d}"}
    assert set(bench.store.names()) == stay
    assert [manifest["parent"] for manifest in manifests.values()][1:] == list(manifests)[:-1]


def test_a_job_is_published_even_if_no_version_can_be_pruned(
    make_bench: Callable[..., Bench], redis_client: redis.Redis
) -> None:
    bench = make_bench(gate_tolerance=1.0, gate_significance=0.0, keep_versions=1, retention_grace_s=0, steps=1)
    redis_client.hset(LEASES, "odd", "for ever")
    for _ in range(3):
        log_samples(bench.log)
        assert bench.run(ascent="none").status == "published"
    assert len(bench.store.names()) == 4


def test_too_few_samples_fail_the_job_with_both_figures(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    log_samples(bench.log, GROUPS - 1)
    job = bench.run()
    assert job.status == "failed"
    assert job.error == {
        "code": "not_enough_data",
        "message": "5 unused sample groups with two or more responses; 6 are needed",
    }
    assert bench.log.count_unused(100) == GROUPS - 1


def test_unusable_preferences_fail_the_job_with_the_reason(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make_bench(preferences=tmp_path / "missing.jsonl")
    log_samples(bench.log)
    job = bench.run()
    assert job.status == "failed"
    assert job.error is not None
    assert "missing.jsonl" in job.error["message"]


def test_the_next_trainer_finishes_a_job_that_was_published_before_a_crash(
    make_bench: Callable[..., Bench], redis_client: redis.Redis
) -> None:
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)
    job = bench.run()
    # as if the trainer had crashed between the rename in the store and the update of the job
    bench.jobs.save(job.with_changes(status="running", candidate=None, verdict=None, finished=None))
    redis_client.set(ACTIVE_JOB, job.id)
    bench.work_until_idle()
    again = bench.jobs.get(job.id)
    assert (again.status, again.candidate) == ("published", "v000002")
    assert bench.store.names() == ["v000001", "v000002"]


def test_a_job_that_repeatedly_crashes_its_trainer_fails(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    log_samples(bench.log)
    job = bench.jobs.create({})
    bench.jobs.save(job.with_changes(status="running", attempts=MAX_ATTEMPTS))
    bench.work_until_idle()
    ended = bench.jobs.get(job.id)
    assert ended.status == "failed"
    assert ended.error is not None
    assert "given up" in ended.error["message"]


def test_a_stopped_trainer_leaves_its_job_queued_with_its_samples(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    log_samples(bench.log)
    job = bench.jobs.create({"steps": 5000})
    stop = threading.Event()
    worker = threading.Thread(target=bench.trainer.run, args=(stop,))
    worker.start()
    deadline = time.monotonic() + 60
    while (progress := bench.jobs.get(job.id).progress)["step"] < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    worker.join()
    assert progress["updates_left_s"] > 0
    assert progress["ascent"] in ASCENT_RATES
    left = bench.jobs.get(job.id)
    assert (left.status, left.attempts) == ("queued", 0)
    assert bench.log.count_unused(100) == GROUPS


class StaleManifests:
    """Makes reads of one version's manifest fail `failures` times, like on a network mount."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str, failures: int) -> None:
        self.failures = failures
        read = VersionStore.manifest

        def manifest(store: VersionStore, name: str) -> dict[str, Any]:
            if name == version and self.failures:
                self.failures -= 1
                raise OSError(errno.ESTALE, "Stale file handle")
            return read(store, name)

        monkeypatch.setattr(VersionStore, "manifest", manifest)


def reported(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages that the trainer's loop logged."""
    return [record.getMessage() for record in caplog.records if record.name == "metarm.runtime.loops"]


STALE = ["job-loop failed; retrying: OSError: [Errno 116] Stale file handle", "job-loop works again"]


@pytest.mark.parametrize("attempts", [1, MAX_ATTEMPTS - 1])
def test_a_store_error_before_a_run_does_not_count_as_an_attempt(
    make_bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    attempts: int,
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)
    job = bench.jobs.create({})
    bench.jobs.save(job.with_changes(status="running", attempts=attempts))
    stale = StaleManifests(monkeypatch, "v000001", failures=2 * MAX_ATTEMPTS)
    bench.work_until_idle()
    ended = bench.jobs.get(job.id)
    assert (ended.status, ended.attempts, ended.candidate) == ("published", attempts + 1, "v000002")
    assert (stale.failures, reported(caplog)) == (0, STALE)


def test_a_store_error_after_a_publication_starts_no_second_run(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)
    stale = StaleManifests(monkeypatch, "v000002", failures=2 * MAX_ATTEMPTS)
    job = bench.run()
    assert (job.status, job.attempts, job.candidate) == ("published", 1, "v000002")
    assert job.curve is not None
    assert job.curve["steps"] == [1, 2, 3]
    assert (stale.failures, reported(caplog)) == (0, STALE)
    assert (bench.store.names(), bench.store.current()) == (["v000001", "v000002"], "v000002")
    assert bench.log.count_unused(100) == 0
    assert bench.jobs.ended() == {"published": 1}


def test_a_promotion_that_fails_on_a_disk_error_is_repeated_without_a_second_run(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)
    promote, errors = bench.promote, [OSError(errno.ESTALE, "Stale file handle")] * 2 * MAX_ATTEMPTS

    def fail_first(version: str) -> None:
        if errors:
            raise errors.pop()
        promote(version)

    bench.promote = fail_first
    job = bench.run()
    assert (job.status, job.attempts) == ("published", 1)
    assert (errors, reported(caplog)) == ([], STALE)
    assert (bench.store.names(), bench.store.current()) == (["v000001", "v000002"], "v000002")


def test_a_store_error_during_a_run_fails_the_job(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench()
    log_samples(bench.log)
    StaleManifests(monkeypatch, "v000001", failures=1)  # the parent's
    job = bench.run()
    assert (job.status, job.attempts) == ("failed", 1)
    assert job.error is not None
    assert "Stale file handle" in job.error["message"]
    assert reported(caplog) == []
    assert bench.log.count_unused(100) == GROUPS


def test_a_run_ended_by_an_unreadable_store_starts_again_when_the_store_is_readable(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)
    stale = StaleManifests(monkeypatch, "v000001", failures=2 * MAX_ATTEMPTS)  # the parent's
    job = bench.run()
    assert (job.status, job.attempts, job.candidate) == ("published", 2, "v000002")
    assert (stale.failures, reported(caplog)) == (0, STALE)
    assert bench.jobs.ended() == {"published": 1}


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), KeyError("verdict")])
def test_a_pruning_error_does_not_change_the_outcome_of_the_job(
    make_bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fails(_retention: Retention) -> None:
        raise error

    monkeypatch.setattr(Retention, "prune", fails)
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)
    job = bench.run()
    assert (job.status, job.error) == ("published", None)
    assert bench.jobs.ended() == {"published": 1}
    assert "no version was pruned: " in caplog.text
    assert reported(caplog) == []


def test_an_unexpected_error_in_a_turn_does_not_end_the_trainer(
    make_bench: Callable[..., Bench], redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)
    stop = threading.Event()
    redis_client.set(ACTIVE_JOB, "job-damaged")
    redis_client.set(job_key("job-damaged"), b"no JSON")
    worker = threading.Thread(target=bench.trainer.run, args=(stop,))
    worker.start()
    wait_until(lambda: "job-loop failed; retrying: JSONDecodeError" in caplog.text)
    redis_client.delete(ACTIVE_JOB)
    job = bench.jobs.create({})
    wait_until(lambda: bench.jobs.get(job.id).status == "published")
    stop.set()
    worker.join()
    assert len(reported(caplog)) == 1


def test_a_replaced_trainer_stops_working(make_bench: Callable[..., Bench], redis_client: redis.Redis) -> None:
    bench = make_bench()
    redis_client.set(TRAINER, b'{"holder":"another:1"}', px=60_000)
    with pytest.raises(TrainerReplacedError):
        bench.trainer.run(threading.Event())


def test_a_version_that_the_servers_reject_stays_on_disk_and_its_job_has_the_reason(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)

    def refuse(version: str) -> None:
        raise CutOverAbortedError(f"server b has no memory for {version}", servers={"b": "no memory"})

    bench.promote = refuse
    job = bench.run()
    assert job.status == "failed"
    assert job.error == {
        "code": "cut_over_aborted",
        "message": "server b has no memory for v000002",
        "details": {"servers": {"b": "no memory"}},
    }
    assert job.candidate == "v000002"
    assert bench.store.names() == ["v000001", "v000002"]
    assert bench.store.current() == "v000001"
    assert bench.log.count_unused(100) == 0  # the version trained on them exists


@pytest.mark.parametrize("moved_by_others", [False, True])
def test_the_next_trainer_promotes_a_version_published_before_a_crash_unless_the_pointer_has_moved(
    make_bench: Callable[..., Bench], moved_by_others: bool, tmp_path: Path, checkpoint: Callable[[Kind], Path]
) -> None:
    bench = make_bench(gate_tolerance=1.0)
    log_samples(bench.log)

    def die(_version: str) -> None:
        raise TrainerReplacedError("as if killed")

    promote, bench.promote = bench.promote, die
    job = bench.jobs.create({})
    with pytest.raises(TrainerReplacedError):
        bench.trainer.run(threading.Event())
    assert (bench.store.names(), bench.store.current()) == (["v000001", "v000002"], "v000001")
    if moved_by_others:
        publish(tmp_path, checkpoint("bert"))
    bench.promote = promote
    bench.work_until_idle()
    assert bench.jobs.get(job.id).status == "published"
    assert bench.store.current() == ("v000003" if moved_by_others else "v000002")


@pytest.mark.parametrize("made", ["published", "rejected"])
def test_the_outcome_of_a_job_is_searched_from_the_newest_version_back_to_its_start(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    bench = make_bench()
    for number in range(10, 310):
        fields = {"job": f"job-{number}", "created": "2020-01-01T00:00:00Z"}
        (bench.store.root / "rejected" / f"v{number:06d}.json").write_text(json.dumps(fields))
    job = bench.jobs.create({})
    name, _ = bench.store.stage()
    outcome = {"job": "another", "verdict": {}, "samples": {}}
    bench.store.publish(name, outcome) if made == "published" else bench.store.reject(name, outcome)
    reads: list[str] = []
    read = VersionStore.manifest

    def counted(store: VersionStore, name: str) -> dict[str, Any]:
        reads.append(name)
        return read(store, name)

    monkeypatch.setattr(VersionStore, "manifest", counted)
    bench.jobs.save(job.with_changes(status="running", attempts=MAX_ATTEMPTS))
    bench.work_until_idle()
    assert bench.jobs.get(job.id).status == "failed"  # given up: no version is this job's
    assert reads == [name, "v000309"]


def test_a_preference_file_that_comes_back_is_used_again(
    make_bench: Callable[..., Bench], preference_file: Path
) -> None:
    bench = make_bench()
    presence = TrainerPresence(bench.jobs._redis)
    bench.trainer.announce()
    shown = presence.status()
    assert shown is not None
    assert shown["preferences"] > 0
    aside = preference_file.rename(preference_file.with_suffix(".aside"))
    for _ in range(2):  # the second time nothing has changed
        bench.trainer.announce()
    gone = presence.status()
    assert gone is not None
    assert "there is no preference file" in gone["preferences_error"]
    aside.rename(preference_file)
    bench.trainer.announce()
    assert presence.status() == shown
