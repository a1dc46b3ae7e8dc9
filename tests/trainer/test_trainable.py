"""The parameters that a run changes with each `trainable`: full, the head alone, adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from metarm.errors import ConfigurationError, JobCancelledError
from metarm.model.reward_model import RewardModel, load_model
from metarm.records import Ascent, Trainable
from tests.metarm.model.forward.networks import make_network
from tests.tiny import Kind
from tests.trainer.test_training import GROUPS, PREFERENCES, SMALL
from trainer.batches import EncodedPair, encode_groups, encode_pairs
from trainer.meta_update import StepReport
from trainer.settings import TrainerSettings
from trainer.trainable import head_of, trainable
from trainer.training import TrainOptions, score_pairs, train

Kinds = Callable[[Kind], Path]
ROUTES: dict[Kind, str] = {"bert": "encoder", "llama": "decoder", "gpt2": "padded"}
KINDS = list(ROUTES)
ASCENTS: list[Ascent] = list(get_args(Ascent))


def weights(model: RewardModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.network.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def pairs_of(model: RewardModel) -> list[EncodedPair]:
    return encode_pairs(model.encoder, PREFERENCES)


def run(
    model: RewardModel,
    which: Trainable,
    ascent: Ascent,
    on_step: Callable[[int, StepReport], None] = lambda *_: None,
    seed: int = 0,
) -> None:
    options = TrainOptions.of(
        TrainerSettings(), {**SMALL, "ascent": ascent, "trainable": which, "steps": 3, "seed": seed}
    )
    train(model, pairs_of(model), encode_groups(model.encoder, GROUPS), options, on_step)


def scores(model: RewardModel) -> Tensor:
    return torch.tensor(score_pairs(model, pairs_of(model)).all)


@pytest.mark.parametrize("ascent", ASCENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_training_the_head_changes_no_other_parameter(checkpoint: Kinds, kind: Kind, ascent: Ascent) -> None:
    model = load_model(checkpoint(kind), 128)
    assert model.route.name == ROUTES[kind]
    before = weights(model)
    run(model, "head", ascent)
    head = {"classifier.weight"} if kind == "bert" else {"score.weight"}  # a bias cancels in score differences
    assert changed(before, weights(model)) - {"classifier.bias"} == head


@pytest.mark.parametrize("ascent", ASCENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_change_only_the_linear_layers_and_the_head(
    checkpoint: Kinds, kind: Kind, ascent: Ascent
) -> None:
    model = load_model(checkpoint(kind), 128)
    before = weights(model)
    run(model, "lora", ascent)
    found = changed(before, weights(model)) - {"classifier.bias"}
    expected = {n for n, p in before.items() if p.dim() == 2 and "embed" not in n and ".wte" not in n}
    assert found == {name for name in expected if ".wpe" not in name}


@pytest.mark.parametrize("ascent", ASCENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_candidate_has_the_scores_of_the_adapted_model_and_no_adapters(
    checkpoint: Kinds, kind: Kind, ascent: Ascent, tmp_path: Path
) -> None:
    model = load_model(checkpoint(kind), 128)
    untrained = scores(model)
    adapted: list[Tensor] = []
    run(model, "lora", ascent, lambda *_: adapted.append(scores(model)))
    model.save(tmp_path / "candidate")
    loaded = scores(load_model(tmp_path / "candidate", 128))
    torch.testing.assert_close(loaded, adapted[-1], atol=1e-5, rtol=1e-5)
    assert (loaded - untrained).abs().max() > 1e-3
    names = {path.name for path in (tmp_path / "candidate").iterdir()}
    assert names == {path.name for path in checkpoint(kind).iterdir()}
    parent = json.loads((checkpoint(kind) / "config.json").read_text())
    assert json.loads((tmp_path / "candidate" / "config.json").read_text()) == parent


@pytest.mark.parametrize("kind", KINDS)
def test_every_route_runs_the_adapters(checkpoint: Kinds, kind: Kind) -> None:
    model = load_model(checkpoint(kind), 128)
    samples = [s for pair in pairs_of(model) for s in (pair.chosen, pair.rejected)]
    plain = model.scores(samples)
    with trainable(model.network, "lora", rank=4, alpha=8, seed=0) as parameters:
        adapters = [p for name, p in model.network.named_parameters() if ".lora_" in name]
        assert {id(p) for p in adapters} < {id(p) for p in parameters}
        assert torch.equal(model.scores(samples), plain)  # B is zero
        with torch.no_grad():
            for parameter in adapters:
                parameter.normal_(std=0.05)
        scored = model.scores(samples)
        for name, parameter in model.network.named_parameters():
            if ".lora_" in name:
                (gradient,) = torch.autograd.grad(scored.square().sum(), parameter, retain_graph=True)
                assert gradient.abs().max() > 0, name
        alone = torch.stack([model.scores([sample])[0] for sample in samples])
    torch.testing.assert_close(scored, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.scores(samples), scored, atol=1e-5, rtol=1e-5)
    assert (scored - plain).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_trunk_builds_no_autograd_graph(checkpoint: Kinds, kind: Kind) -> None:
    model = load_model(checkpoint(kind), 128)
    seen: list[bool] = []
    layers = [m for m in model.network.base_model.modules() if isinstance(m, nn.LayerNorm | nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda _m, _i, output: seen.append(output.requires_grad))
    with trainable(model.network, "head", rank=1, alpha=1, seed=0):
        assert model.scores([pairs_of(model)[0].chosen]).requires_grad
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("which", ["head", "lora"])
@pytest.mark.parametrize("ascent", ["sgd", "adam", "shared_adam", "joint", "second_order"])
def test_the_ascent_moves_only_the_trained_parameters_and_restores_them(
    checkpoint: Kinds, which: Trainable, ascent: Ascent
) -> None:
    model = load_model(checkpoint("bert"), 128)
    options = TrainOptions.of(TrainerSettings(), {**SMALL, "ascent": ascent, "trainable": which, "steps": 1})
    options = TrainOptions.of(TrainerSettings(), {**options.record(), "learning_rate": 1e-30})
    with torch.no_grad():
        model.network.get_parameter("classifier.bias").fill_(1.0)  # an update of 1e-30 would change a bias of 0
    before = weights(model)
    seen: list[dict[bool, Tensor]] = []  # the trained and the frozen parameters at every forward

    def record_parameters(*_: object) -> None:
        parts = [(p.requires_grad, p.detach().flatten()) for p in model.network.parameters()]
        seen.append({learns: torch.cat([p for of, p in parts if of == learns]) for learns in (True, False)})

    hook = model.network.get_submodule("classifier").register_forward_hook(record_parameters)
    train(model, pairs_of(model), encode_groups(model.encoder, GROUPS), options, lambda *_: None)
    hook.remove()
    assert all(torch.equal(state[False], seen[0][False]) for state in seen)
    assert any(not torch.equal(state[True], seen[0][True]) for state in seen) == (ascent != "joint")
    assert changed(before, weights(model)) == set()


def test_the_same_seed_gives_the_same_adapters_without_touching_the_global_random_state(
    checkpoint: Kinds,
) -> None:
    first, again, other = (load_model(checkpoint("bert"), 128) for _ in range(3))
    torch.manual_seed(1)
    run(first, "lora", "none", seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    run(again, "lora", "none", seed=3)
    run(other, "lora", "none", seed=4)
    assert changed(weights(first), weights(again)) == set()
    assert changed(weights(first), weights(other)) != set()


def test_a_stopped_run_leaves_a_trainable_network_without_adapters(
    checkpoint: Kinds,
) -> None:
    model = load_model(checkpoint("llama"), 128)
    names = weights(model).keys()

    def stop(step: int, _: StepReport) -> None:
        if step == 2:
            raise JobCancelledError("enough")

    with pytest.raises(JobCancelledError):
        run(model, "lora", "sgd", stop)
    assert weights(model).keys() == names
    assert all(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.slow
def test_only_a_run_with_adapters_imports_peft() -> None:
    code = "import sys, trainer.loop, trainer.first_model; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


HEADS = {
    "bert": {"classifier"},
    "roberta": {"classifier"},
    "electra": {"classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "deberta-v2": {"pooler", "classifier"},
    "modernbert": {"head", "classifier"},
    "llama": {"score"},
    "gpt2": {"score"},
}


@pytest.mark.parametrize(("kind", "parts"), HEADS.items())
def test_the_head_of_each_family_has_the_expected_modules(kind: str, parts: set[str]) -> None:
    network = make_network(kind)
    head = {id(parameter) for parameter in head_of(network)}
    assert {name.split(".")[0] for name, p in network.named_parameters() if id(p) in head} == parts


@pytest.mark.parametrize("which", ["head", "lora"])
def test_a_network_without_a_head_is_rejected(which: Trainable) -> None:
    backbone = make_network("bert").base_model
    assert isinstance(backbone, PreTrainedModel)
    with (
        pytest.raises(ConfigurationError, match="trainable=full"),
        trainable(backbone, which, rank=1, alpha=1, seed=0),
    ):
        pass
