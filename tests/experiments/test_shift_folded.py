"""The folded forward against the network's own, on a tiny BERT in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from experiments.shifted.experiment import next_options
from experiments.shifted.folded import FoldedModel, average, check
from experiments.shifted.states import FrozenStates, freeze, states_of
from experiments.shifted.variants import RATES, Variant
from metarm.errors import ConfigurationError
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel, load_model
from metarm.records import Ascent
from tests.experiments.sharp_bert import sharp_bert
from tests.tiny import CORPUS, make_checkpoint
from trainer.batches import EncodedGroup, EncodedPair, backward_preference
from trainer.training import train

GENTLE = 0.02  # a small η: a larger one changes a sharp model so much that rounding matters
RESPONSES = [text[:cut] for text in CORPUS for cut in (9, 24, 60)]


@pytest.fixture
def model(tmp_path: Path) -> RewardModel:
    return sharp_bert(tmp_path / "bert")


@pytest.fixture
def texts(model: RewardModel) -> list[Encoded]:
    return model.encoder.encode([("What is seventeen plus twenty five?", RESPONSES)])[0]


@pytest.fixture
def folded(model: RewardModel, texts: list[Encoded], tmp_path: Path) -> FoldedModel:
    return FoldedModel(model, FrozenStates(states_of(model, texts, tmp_path / "states", np.float32)))


def _pairs(texts: list[Encoded]) -> list[EncodedPair]:
    return [EncodedPair(one, other, 0.0) for one, other in zip(texts[:6], texts[6:12], strict=True)]


def test_folded_scores_are_the_networks_own_for_every_batch_size(
    folded: FoldedModel, model: RewardModel, texts: list[Encoded]
) -> None:
    with torch.inference_mode():
        own = model.scores(texts)
        assert float(own.std()) > 0.1
        for batch_tokens in (1, 40, 10**6):
            assert folded.scores(texts, batch_tokens) == pytest.approx(own, abs=1e-5)
    assert check(folded, texts) < 1e-4


def test_folded_gradients_are_the_networks_own(
    folded: FoldedModel, model: RewardModel, texts: list[Encoded]
) -> None:
    gradients = []
    for one in (folded, model):  # they share a network
        folded.network.zero_grad()
        backward_preference(one, _pairs(texts), 4096)
        gradients.append(
            {n: p.grad for n, p in folded.network.named_parameters() if p.requires_grad and p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() == folded.weights().keys()
    largest = max(gradient.norm() for gradient in gradients[1].values())
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5 * largest, name


@pytest.mark.parametrize("ascent", get_args(Ascent))
def test_training_through_the_folded_forward_equals_training_through_the_networks_own(
    ascent: Ascent, folded: FoldedModel, model: RewardModel, texts: list[Encoded]
) -> None:
    variant = Variant(ascent, ascent, min(RATES[ascent], GENTLE), meta_batch_size=2)
    chosen = replace(next_options(variant, seed=0), steps=3, learning_rate=1e-3)
    groups = [EncodedGroup(str(start), texts[start : start + 5]) for start in (0, 5, 10)]
    before, start = model.network.state_dict(), folded.weights()
    before = {name: tensor.clone() for name, tensor in before.items()}
    moved = []
    for one in (folded, model):
        folded.take(start)
        train(one, _pairs(texts), groups, chosen, lambda *_: None)
        moved.append(folded.weights())
    learning = [
        name for name in start if name != "classifier.bias"
    ]  # L and J depend only on differences of scores
    ours, theirs = ({name: weights[name] - start[name] for name in learning} for weights in moved)
    assert all(change.any() for change in ours.values())
    apart = torch.cat([(ours[name] - theirs[name]).flatten() for name in learning]).norm()
    # AdamW makes full steps even where a gradient is rounding error, so single weights may differ
    assert apart < 0.05 * torch.cat([change.flatten() for change in theirs.values()]).norm()
    frozen = set(before) - set(start)
    assert all(torch.equal(model.network.state_dict()[name], before[name]) for name in frozen)
    assert any("layer.0" in name for name in frozen)


def test_states_are_computed_once_and_read_from_disk_after_that(
    folded: FoldedModel, model: RewardModel, texts: list[Encoded], tmp_path: Path
) -> None:
    (file,) = (tmp_path / "states").iterdir()
    content = np.load(file)
    np.save(file, np.zeros_like(content))
    again = states_of(model, [*reversed(texts), texts[0]], tmp_path / "states", np.float32)
    assert not any(states.any() for states in again.values())
    assert set(again) == {text.key for text in texts}


def test_other_texts_or_frozen_weights_get_other_states(
    folded: FoldedModel, model: RewardModel, texts: list[Encoded], tmp_path: Path
) -> None:
    folder = tmp_path / "states"
    states_of(model, texts[1:], folder, np.float32)
    assert len(list(folder.iterdir())) == 2
    folded.take({name: weight + 1 for name, weight in folded.weights().items()})
    states_of(model, texts, folder, np.float32)
    assert len(list(folder.iterdir())) == 2  # they do not depend on the learning parts
    with torch.no_grad():
        model.network.get_parameter("bert.encoder.layer.0.output.dense.bias").add_(1.0)
    states_of(model, texts, folder, np.float32)
    assert len(list(folder.iterdir())) == 3


def test_a_fold_that_differs_from_the_network_is_refused(folded: FoldedModel, texts: list[Encoded]) -> None:
    with torch.no_grad():  # a change below the states they were computed with
        folded.network.get_parameter("bert.encoder.layer.0.output.dense.weight").mul_(2.0)
    with pytest.raises(ConfigurationError, match="folded scores differ"):
        check(folded, texts)


def test_a_model_that_cannot_be_folded_is_refused(tmp_path: Path) -> None:
    model = load_model(make_checkpoint(tmp_path / "llama", "llama"), 64)
    with pytest.raises(ConfigurationError, match="only a BERT with a pooler"):
        freeze(model.network)


def test_the_average_of_two_models_is_the_mean_of_their_weights(folded: FoldedModel) -> None:
    one = folded.weights()
    middle = average(one, {name: weight + 2.0 for name, weight in one.items()})
    assert all(torch.allclose(middle[name], weight + 1.0) for name, weight in one.items())
