"""Which weights a fine-tuning ends with, and what it says of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarm.model.reward_model import load_model
from tests.tiny import CORPUS, Kind
from trainer.batches import encode_pairs
from trainer.fine_tuning import TrainingSchedule, fine_tune
from trainer.preferences import PreferenceSet, load_preferences
from trainer.settings import FirstModelSettings
from trainer.training import score_pairs

STEPS = 12


@pytest.fixture
def preferences(tmp_path: Path) -> PreferenceSet:
    """Pairs of which the chosen response ends in one word: learned within a few steps."""
    rows = [
        {
            "prompt": f"{CORPUS[n % len(CORPUS)]} {n}",
            "chosen": f"{CORPUS[(n + 1) % len(CORPUS)]} forty",
            "rejected": f"{CORPUS[(n + 2) % len(CORPUS)]} train",
        }
        for n in range(200)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return load_preferences(file, 0.3, 60)


@pytest.mark.parametrize("trainable", ["full", "head", "lora"])
def test_the_weights_of_the_best_step_stay_and_the_earliest_of_equals_is_best(
    checkpoint: Callable[[Kind], Path], preferences: PreferenceSet, tmp_path: Path, trainable: str
) -> None:
    model = load_model(checkpoint("bert"), 64)
    settings = FirstModelSettings(
        data_dir=tmp_path, trainable=trainable, train_threads=1, min_preferences=2, warmup_share=0.0
    )
    schedule = TrainingSchedule(preferences.train, 2e-2, STEPS, evaluate_every=1)
    tuned = fine_tune(model, [], preferences, schedule, settings, threading.Event())
    metrics: dict[str, Any] = tuned.manifest["metrics"]
    measured = dict(tuned.curve.accuracies)
    trained = {step: accuracy for step, accuracy in measured.items() if step > 0}
    best = max(trained.values())
    earliest = min(step for step, accuracy in trained.items() if accuracy == best)
    assert (metrics["best_step"], metrics["held_out_accuracy"]) == (earliest, best)
    assert earliest < STEPS, "the last step is not the best one, so that weights are restored"
    saved = score_pairs(model, encode_pairs(model.encoder, preferences.held_out)).accuracy
    assert saved == pytest.approx(best, abs=1 / len(preferences.held_out) if trainable == "lora" else 1e-9)
    assert metrics["before_training"] == measured[0]
    low, high = metrics["held_out_interval"]
    assert low < best <= high
    assert f"step {earliest} is the best: held-out accuracy {best:.3f}" in tuned.summary
    assert "if the longer response always wins" in tuned.summary


def test_a_fine_tuning_without_held_out_pairs_ends_with_its_last_step(
    checkpoint: Callable[[Kind], Path], preferences: PreferenceSet, tmp_path: Path
) -> None:
    model = load_model(checkpoint("bert"), 64)
    settings = FirstModelSettings(data_dir=tmp_path, train_threads=1, min_preferences=2)
    alone = PreferenceSet("pairs", "0" * 64, preferences.train, [], 0.3, 60)
    schedule = TrainingSchedule(alone.train, 1e-3, 2, evaluate_every=1)
    tuned = fine_tune(model, [], alone, schedule, settings, threading.Event())
    assert tuned.manifest["metrics"]["held_out_accuracy"] is None
    assert "no pair is held out" in tuned.summary
