"""A retrain of a tiny real model, without Redis or a store."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metarm.errors import JobCancelledError
from metarm.model import probe
from metarm.model.reward_model import RewardModel, load_model
from metarm.records import Preference, SampleGroup
from metarm.store.calibration import IDENTITY, Calibration
from tests.demo_groups import demo_groups
from tests.tiny import Kind
from trainer.gate import Thresholds
from trainer.meta_update import StepReport
from trainer.preferences import PreferenceSet
from trainer.retrain import Candidate, Parent, retrain
from trainer.settings import TrainerSettings
from trainer.training import TrainOptions

LENIENT: dict[str, Any] = {"gate_tolerance": 1.0, "gate_significance": 0.0, "gate_max_scale": 1000.0}
OF_THE_MODEL = {"calibration", "probe", "reference"}
Checkpoint = Callable[[Kind], Path]


def preferences() -> PreferenceSet:
    pairs = [
        Preference(group["prompt"][:40], "It is forty two.", "Compare the two trains.")
        for group in demo_groups(40)
    ]
    return PreferenceSet("made for this test", "0" * 64, pairs[:30], pairs[30:], 0.25, 400)


def samples() -> list[SampleGroup]:
    texts = ("It is forty two.", "The first train.")
    return [SampleGroup(f"{i}", f"{i}", f"Question {i}?", texts, (0.0, 1.0), "v000001", 0.0) for i in range(6)]


def run(
    checkpoint: Path,
    folder: Path,
    on_step: Callable[[int, StepReport], None] = lambda _step, _report: None,
    change: Callable[[RewardModel], None] = lambda _: None,
    **options: Any,
) -> Candidate:
    """Retrain the checkpoint; `change` modifies the trained model before it is saved."""

    def save_and_load(model: RewardModel) -> tuple[str, RewardModel]:
        with torch.no_grad():
            change(model)
        model.save(folder)
        return "v000002", load_model(folder, 128)

    settings = TrainerSettings(steps=3, batch_size=4, **LENIENT)
    parent = Parent("v000001", load_model(checkpoint, 128), IDENTITY, "a checkpoint")
    force = options.pop("force", False)
    chosen, thresholds = TrainOptions.of(settings, options), Thresholds.of(settings)
    given = parent, preferences(), samples(), chosen, thresholds
    return retrain(*given, on_step, save_and_load, force=force)


@pytest.mark.parametrize(("ascent", "method"), [("none", "vanilla"), ("sgd", "metarm")])
def test_the_manifest_of_a_candidate_describes_the_saved_model_and_its_verdict(
    checkpoint: Checkpoint, tmp_path: Path, ascent: str, method: str
) -> None:
    steps: list[int] = []
    candidate = run(checkpoint("bert"), tmp_path, lambda step, _: steps.append(step), ascent=ascent)
    manifest = candidate.manifest
    assert (candidate.name, candidate.verdict.accepted, steps) == ("v000002", True, [1, 2, 3])
    assert (manifest["parent"], manifest["source"], manifest["method"]) == ("v000001", "a checkpoint", method)
    assert manifest["job"] is manifest["samples"] is None
    assert manifest["verdict"]["figures"]["held_out_accuracy"] == candidate.rewards.held_out.accuracy
    assert manifest["verdict"]["figures"]["parent_accuracy"] == candidate.parent_rewards.held_out.accuracy
    probe.check(load_model(tmp_path, 128), {"name": "v000002", **manifest})
    assert Calibration.of(manifest) != IDENTITY


def test_the_saved_model_is_the_one_that_is_judged(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def break_head(model: RewardModel) -> None:
        next(model.network.classifier.parameters())[0, 0] = math.nan

    candidate = run(checkpoint("bert"), tmp_path, change=break_head, ascent="none", force=True)
    assert candidate.verdict.reasons == ["the candidate answers scores that are not finite numbers"]
    assert not candidate.verdict.publishes
    assert not OF_THE_MODEL & candidate.manifest.keys()


def test_an_error_in_the_callback_ends_the_run_before_anything_is_saved(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def cancel(step: int, _: StepReport) -> None:
        if step == 2:
            raise JobCancelledError("cancelled on request")

    with pytest.raises(JobCancelledError):
        run(checkpoint("bert"), tmp_path / "candidate", cancel, ascent="none")
    assert not (tmp_path / "candidate").exists()
