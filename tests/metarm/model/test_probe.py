from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from metarm.errors import InvalidVersionError
from metarm.model import probe
from metarm.model.reward_model import RewardModel, load_model
from tests.tiny import Kind, make_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> RewardModel:
    return load_model(make_checkpoint(tmp_path / "bert", "bert"), 128)


def _manifest(model: RewardModel) -> dict[str, object]:
    return {"name": "v000003", "probe": probe.take(model)}


@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if kind != "bert-backbone"])
def test_every_kind_of_model_passes_its_own_probe(kind: Kind, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / kind, kind)
    manifest = _manifest(load_model(folder, 128))
    again = load_model(folder, 128)
    probe.check(again, manifest)
    probe.check(again, {"name": "v000003"})


def test_changed_weights_are_rejected(model: RewardModel) -> None:
    manifest = _manifest(model)
    with torch.no_grad():
        model.network.get_parameter("classifier.weight").mul_(1.5)
    with pytest.raises(InvalidVersionError, match="scores a text of the probe"):
        probe.check(model, manifest)


def test_a_changed_tokenizer_is_rejected(model: RewardModel, tmp_path: Path) -> None:
    manifest = _manifest(model)
    model.encoder.tokenizer.backend_tokenizer.add_tokens(["sky"])
    other = load_model(_resaved(model, tmp_path / "other"), 128)
    with pytest.raises(InvalidVersionError, match="its tokens of the probe's texts differ"):
        probe.check(other, manifest)


def test_token_ids_outside_the_vocabulary_are_rejected(model: RewardModel, tmp_path: Path) -> None:
    model.encoder.tokenizer.backend_tokenizer.add_tokens(["sky"])
    other = load_model(_resaved(model, tmp_path / "other"), 128)
    with pytest.raises(InvalidVersionError, match="token ids outside the network's vocabulary"):
        probe.check(other, {"name": "v000003"})


def test_a_non_finite_weight_is_rejected_even_if_no_probe_text_uses_it(model: RewardModel) -> None:
    manifest = _manifest(model)
    with torch.no_grad():
        model.network.get_parameter("bert.embeddings.position_embeddings.weight")[127, 3] = torch.nan
    with pytest.raises(InvalidVersionError, match="non-finite weights"):
        probe.check(model, manifest)


def test_a_probe_that_records_non_finite_scores_is_rejected(model: RewardModel) -> None:
    manifest = _manifest(model)
    manifest["probe"] = [{"tokens": None, "score": None}] * len(probe.take(model))
    with pytest.raises(InvalidVersionError, match="records non-finite scores"):
        probe.check(model, manifest)


def test_texts_truncated_by_a_shorter_limit_are_not_compared(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bert", "bert")
    manifest = _manifest(load_model(folder, 128))
    short = load_model(folder, 20)
    probe.check(short, manifest)
    probe.check(load_model(folder, 128), _manifest(short))


def _resaved(model: RewardModel, folder: Path) -> Path:
    model.save(folder)
    return folder
