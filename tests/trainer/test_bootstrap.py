"""A real trainer process makes the first version from a user's own checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metarm.model.reward_model import load_model
from metarm.store.versions import VersionStore
from tests.demo_groups import demo_groups
from tests.processes import RedisProcess, trainer
from tests.tiny import Kind

Checkpoint = Callable[[Kind], Path]

pytestmark = pytest.mark.slow


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    rows = [
        {"prompt": g["prompt"][:60], "chosen": g["responses"][0][:40], "rejected": g["responses"][1][:40]}
        for g in demo_groups(120)
    ]
    file = tmp_path / "preferences.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


@pytest.mark.parametrize("kind", ["bert", "llama-chat", "qwen"])
def test_a_checkpoint_with_a_head_becomes_the_first_version_with_unchanged_weights(
    kind: Kind, checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    store = VersionStore(tmp_path / "versions")
    with trainer(tmp_path, redis_process.url, METARM_MODEL=str(checkpoint(kind))) as process:
        process.wait_until(lambda: store.current() is not None)
    manifest = store.verify("v000001")
    assert (manifest["method"], manifest["source"]) == ("import", str(checkpoint(kind)))
    given = load_model(checkpoint(kind), 512).network.state_dict()
    kept = load_model(store.path("v000001"), 512).network.state_dict()
    assert given.keys() == kept.keys()
    assert all(torch.equal(given[name], kept[name]) for name in given)


def test_a_backbone_without_a_head_is_rejected_and_the_error_names_the_option(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    with trainer(tmp_path, redis_process.url, METARM_MODEL=str(checkpoint("bert-backbone"))) as process:
        assert process.wait() == 78
    assert "--init-head" in process.output
    assert VersionStore(tmp_path / "versions").names() == []


def test_a_backbone_gets_a_new_head_on_request_which_is_logged_and_fine_tuned(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess, preferences: Path
) -> None:
    settings = {
        "METARM_MODEL": str(checkpoint("bert-backbone")),
        "METARM_INIT_HEAD": "true",
        "PREFERENCES": str(preferences),
        "METARM_MAX_TOKENS": "64",
    }
    store = VersionStore(tmp_path / "versions")
    with trainer(tmp_path, redis_process.url, **settings) as process:
        process.wait_until(lambda: store.current() is not None)
    assert "lacks classifier.bias, classifier.weight: initialised at random" in process.output
    manifest = store.verify("v000001")
    assert manifest["method"] == "bootstrap"
    curve = store.curve("v000001")
    assert curve is not None
    assert len(curve["loss"]) == manifest["metrics"]["steps"]
    assert manifest["preferences"]["source"] == str(preferences)
    assert 0.0 <= manifest["metrics"]["held_out_accuracy"] <= 1.0
    assert load_model(store.path("v000001"), 512).encoder.max_tokens <= 128


def test_a_checkpoint_with_a_head_is_served_despite_unreadable_preferences(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    store = VersionStore(tmp_path / "versions")
    settings = {"METARM_MODEL": str(checkpoint("bert")), "PREFERENCES": str(tmp_path / "none.jsonl")}
    with trainer(tmp_path, redis_process.url, **settings) as process:
        process.wait_until(lambda: store.current() is not None)
        assert process.running
    assert "none.jsonl" in process.output


def test_a_missing_model_is_named_in_the_error(tmp_path: Path, redis_process: RedisProcess) -> None:
    with trainer(tmp_path, redis_process.url, METARM_MODEL=str(tmp_path / "nowhere")) as process:
        assert process.wait() == 78
    assert "nowhere" in process.output


def test_a_second_trainer_waits_for_the_place_until_it_is_free(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    model = {"METARM_MODEL": str(checkpoint("bert"))}
    with trainer(tmp_path, redis_process.url, **model) as first:
        first.wait_until(lambda: VersionStore(tmp_path / "versions").current() is not None)
        with redis_process.client() as client:
            held = client.get("metarm:trainer")
            with trainer(tmp_path / "second", redis_process.url, **model) as second:
                second.wait_until(lambda: "another trainer is running" in second.output)
                first.__exit__()
                second.wait_until(lambda: client.get("metarm:trainer") not in (None, held))
