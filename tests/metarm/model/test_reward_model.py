from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from metarm.errors import ConfigurationError, InvalidVersionError, MetaRMError
from metarm.model.encoding import Encoded
from metarm.model.forward.padded import length_batches
from metarm.model.reward_model import RewardModel, all_finite, import_model, load_model
from tests.metarm.model.forward.networks import plain_score
from tests.tiny import Kind, encode_one, make_checkpoint

KINDS: list[Kind] = ["bert", "llama", "qwen", "llama-chat", "llama-without-pad"]
Kinds = Callable[[Kind], Path]


def plain_network(folder: Path) -> PreTrainedModel:
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(network, PreTrainedModel)
    network.eval()
    return network


def random_samples(model: RewardModel, count: int, seed: int) -> list[Encoded]:
    rng = random.Random(seed)
    tokenizer = model.encoder.tokenizer
    samples = []
    for i in range(count):
        length = rng.randint(1, 100)
        ids = [rng.randrange(len(tokenizer)) for _ in range(length)]
        if i % 4 == 0 and tokenizer.eos_token_id is not None:  # the last token is also the padding token
            ids[-min(length, 1 + i % 3) :] = [tokenizer.eos_token_id] * min(length, 1 + i % 3)
        segments = "token_type_ids" in tokenizer.model_input_names
        cut = rng.randint(0, length)
        samples.append(Encoded(ids, [0] * cut + [1] * (length - cut) if segments else None, truncated=False))
    return samples


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_in_a_batch_equals_the_transformers_score_of_the_sequence_alone(
    checkpoint: Kinds, kind: Kind
) -> None:
    model, network = load_model(checkpoint(kind), 128), plain_network(checkpoint(kind))
    samples = random_samples(model, 40, seed=1)
    with torch.inference_mode():
        alone = torch.stack([plain_score(network, sample) for sample in samples])
        assert alone.std() > 0.05  # the scores differ, so their equality is meaningful
        for batch_tokens in (1, 97, 500, 10**6):
            scores = model.scores(samples, batch_tokens)
            assert scores.dtype == torch.float32
            torch.testing.assert_close(scores, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_real_texts_score_like_in_transformers(checkpoint: Kinds, kind: Kind) -> None:
    model, network = load_model(checkpoint(kind), 24), plain_network(checkpoint(kind))
    texts = [
        "",
        "Yes.",
        "It is forty two.",
        "A longer response says more words, but not always better words! " * 3,
    ]
    (samples,) = model.encoder.encode([("What is seventeen plus twenty five?", texts)])
    assert any(sample.truncated for sample in samples)
    with torch.inference_mode():
        alone = torch.stack([plain_score(network, sample) for sample in samples])
        torch.testing.assert_close(model.scores(samples), alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_a_sequence_of_padding_tokens_scores_like_in_transformers(checkpoint: Kinds, kind: Kind) -> None:
    model, network = load_model(checkpoint(kind), 128), plain_network(checkpoint(kind))
    pad = network.config.pad_token_id
    assert pad == network.config.eos_token_id
    samples = [Encoded([pad] * length, None, truncated=False) for length in (1, 2, 5)]
    with torch.inference_mode():
        alone = torch.stack([plain_score(network, sample) for sample in samples])
        torch.testing.assert_close(model.scores(samples), alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_order_and_batch_composition_do_not_change_a_score(checkpoint: Kinds, kind: Kind) -> None:
    model = load_model(checkpoint(kind), 128)
    samples = random_samples(model, 30, seed=2)
    scores = model.scores(samples)
    rng = random.Random(0)
    for _ in range(5):
        order = rng.sample(range(30), rng.randint(1, 30))
        mixed = model.scores([samples[i] for i in order], batch_tokens=rng.randint(1, 2000))
        torch.testing.assert_close(mixed, scores[order], atol=1e-5, rtol=0)
    assert torch.equal(model.scores(samples), scores)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_scores_equal_those_of_the_plain_forward(checkpoint: Kinds, kind: Kind) -> None:
    model, network = load_model(checkpoint(kind), 128), plain_network(checkpoint(kind))
    samples = random_samples(model, 12, seed=3)
    weights = torch.linspace(-1.0, 1.0, len(samples))
    (model.scores(samples, batch_tokens=150) * weights).sum().backward()  # type: ignore[no-untyped-call]
    alone = torch.stack([plain_score(network, sample) for sample in samples])
    (alone * weights).sum().backward()  # type: ignore[no-untyped-call]
    theirs = dict(network.named_parameters())
    compared = 0
    for name, parameter in model.network.named_parameters():
        expected = theirs[name].grad
        if expected is None:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected, atol=1e-4, rtol=1e-3)
        compared += bool(expected.abs().max() > 1e-3)
    assert compared > 5


def test_scores_carry_no_gradient_under_no_grad(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    samples = random_samples(model, 3, seed=4)
    assert model.scores(samples).requires_grad
    with torch.no_grad():
        assert not model.scores(samples).requires_grad


def test_dropout_is_off(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    assert model.network.config.hidden_dropout_prob > 0
    assert not any(module.training for module in model.network.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_gives_the_same_scores(checkpoint: Kinds, kind: Kind, tmp_path: Path) -> None:
    model = load_model(checkpoint(kind), 128)
    model.save(tmp_path / "saved")
    saved = load_model(tmp_path / "saved", 128)
    (samples,) = model.encoder.encode([("One?", ["Yes.", "The second train is cheaper."])])
    assert saved.encoder.encode([("One?", ["Yes.", "The second train is cheaper."])]) == [samples]
    with torch.inference_mode():
        assert torch.equal(saved.scores(samples), model.scores(samples))


@pytest.fixture
def two_labels(checkpoint: Kinds, tmp_path: Path) -> Path:
    folder = tmp_path / "two-labels"
    shutil.copytree(checkpoint("bert"), folder)
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = 2
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def without(folder: Path, source: Path, lost: str) -> Path:
    """A copy of a checkpoint without the weights whose names begin with `lost`."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith(lost)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_checkpoint_with_two_labels_is_rejected(two_labels: Path) -> None:
    with pytest.raises(InvalidVersionError, match="2 labels"):
        load_model(two_labels, 128)
    with pytest.raises(ConfigurationError, match="2 labels"):
        import_model(str(two_labels), 128, init_head=True, seed=0)


def test_a_backbone_without_a_head_is_rejected(checkpoint: Kinds) -> None:
    with pytest.raises(InvalidVersionError, match="classifier"):
        load_model(checkpoint("bert-backbone"), 128)


@pytest.mark.parametrize(
    ("kind", "lost"), [("bert", "classifier.bias"), ("llama", "score.weight"), ("qwen", "model.layers.1.mlp")]
)
def test_a_checkpoint_that_lacks_weights_is_rejected(
    checkpoint: Kinds, tmp_path: Path, kind: Kind, lost: str
) -> None:
    with pytest.raises(InvalidVersionError, match=lost):
        load_model(without(tmp_path / "lacking", checkpoint(kind), lost), 128)


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_rejected(checkpoint: Kinds, tmp_path: Path, damaged: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint("bert"), folder)
    data = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidVersionError):
        load_model(folder, 128)


def test_a_missing_directory_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(MetaRMError, match="nowhere"):
        load_model(tmp_path / "nowhere", 128)


def test_a_backbone_without_a_head_is_imported_only_with_a_new_head(checkpoint: Kinds) -> None:
    with pytest.raises(ConfigurationError, match="--init-head"):
        import_model(str(checkpoint("bert-backbone")), 128, init_head=False, seed=0)
    model, missing_weights = import_model(str(checkpoint("bert-backbone")), 128, init_head=True, seed=0)
    assert missing_weights == ["classifier.bias", "classifier.weight"]
    assert model.network.config.num_labels == 1


def test_a_new_head_depends_only_on_the_seed(checkpoint: Kinds) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        model, _ = import_model(str(checkpoint("bert-backbone")), 128, init_head=True, seed=seed)
        state: dict[str, Tensor] = model.network.state_dict()
        return state

    first = weights(1)
    torch.rand(7)
    again, other = weights(1), weights(2)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert torch.equal(first["bert.pooler.dense.weight"], other["bert.pooler.dense.weight"])


@pytest.mark.parametrize("init_head", [True, False])
def test_a_trained_head_is_imported_unchanged(checkpoint: Kinds, init_head: bool) -> None:
    model, missing_weights = import_model(str(checkpoint("llama")), 128, init_head=init_head, seed=0)
    assert missing_weights == []
    trained = load_model(checkpoint("llama"), 128).network.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in model.network.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_fit_the_position_limit_of_the_model(kind: Kind, tmp_path: Path) -> None:
    model = load_model(make_checkpoint(tmp_path / kind, kind, max_tokens=40), 512)
    sample = encode_one(model.encoder, "words " * 100, "words " * 100)
    assert len(sample.ids) == 40
    with torch.inference_mode():
        assert all_finite(model.scores([sample]).tolist())


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 2000))
def test_length_batches_contain_every_sequence_once_and_respect_the_token_budget(
    lengths: list[int], batch_tokens: int
) -> None:
    batches = list(length_batches(lengths, batch_tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= batch_tokens or len(batch) == 1
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(lengths, reverse=True)


def test_all_finite_rejects_nan_and_infinity() -> None:
    assert all_finite([0.0, -1e30])
    assert not all_finite([0.0, float("nan")])
    assert not all_finite([float("inf")])
