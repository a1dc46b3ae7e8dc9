"""Every route of every family, compared with the forward of transformers on single sequences."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from metarm.model.encoding import Encoded
from metarm.model.forward import Route, choose_route
from metarm.model.forward.decoder import PackedDecoder
from metarm.model.forward.encoder import PackedEncoder
from tests.metarm.model.forward.networks import (
    LONGEST,
    PAD,
    assert_same_gradients,
    gradients,
    make_network,
    plain_scores,
    random_ids,
)

ENCODERS = ["bert", "bert-gelu-new", "bert-relu", "bert-one-layer", "roberta", "xlm-roberta"]
DECODERS = [
    "llama",
    "llama-one-layer",
    "llama-bias",
    "llama-as-many-key-heads",
    "llama-pad-is-eos",
    "llama-no-pad",
    "llama-rope-linear",
    "llama-rope-llama3",
    "llama-rope-yarn",
    "mistral",
    "mistral-wide-window",
    "qwen2",
    "qwen2-window-not-in-use",
    "qwen3",
]
PADDED = [
    "bert-causal",
    "mistral-short-window",
    "qwen2-short-window",
    "llama-rope-dynamic",
    "distilbert",
    "gpt2",
    "modernbert",
    "deberta-v2",
    "electra",
]
ROUTES = [
    *((k, "encoder") for k in ENCODERS),
    *((k, "decoder") for k in DECODERS),
    *((k, "padded") for k in PADDED),
]
WITH_SEGMENTS = ["bert", "bert-relu", "roberta", "xlm-roberta", "deberta-v2", "electra"]
BATCH_TOKENS = (1, 64, 1000, 10**6)


def random_samples(network: PreTrainedModel, count: int, *, segments: bool, seed: int) -> list[Encoded]:
    """Samples of random lengths, including both extremes. Some contain the padding token or end in it."""
    rng = random.Random(seed)
    pad: int | None = network.config.pad_token_id
    pad = PAD if pad is None else pad
    samples = []
    for number in range(count):
        length = {0: 1, 1: LONGEST}.get(number, rng.randint(1, LONGEST))
        ids = random_ids(rng, length)
        if number % 4 == 2:
            ids[-rng.randint(1, 3) :] = [pad] * len(ids[-rng.randint(1, 3) :])
        if number % 4 == 3:
            ids[rng.randrange(length)] = pad
        ids = ids[:LONGEST]
        cut = rng.randint(0, len(ids))
        samples.append(Encoded(ids, [0] * cut + [1] * (len(ids) - cut) if segments else None, truncated=False))
    return [*samples, Encoded([pad] * 5, [0] * 5 if segments else None, truncated=False)]


@contextmanager
def no_warning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING):
        yield
    assert caplog.records == []


@pytest.mark.parametrize(("kind", "name"), ROUTES)
def test_every_family_takes_its_intended_route_without_a_warning(
    kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with no_warning(caplog):
        route = choose_route(make_network(kind), LONGEST)
    assert route.name == name
    assert route.shares_prompts == (name == "decoder")


@pytest.mark.parametrize("kind", [kind for kind, _ in ROUTES])
@torch.inference_mode()
def test_scores_equal_those_of_the_networks_own_forward(kind: str) -> None:
    network = make_network(kind)
    route = choose_route(network, LONGEST)
    samples = random_samples(network, 24, segments=False, seed=1)
    alone = plain_scores(network, samples)
    assert alone.std() > 0.05  # the scores differ, so their equality is meaningful
    for batch_tokens in BATCH_TOKENS:
        scores = route.scores(samples, batch_tokens, None)
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, alone, atol=1e-4, rtol=0)
    rng = random.Random(2)
    for _ in range(5):
        order = rng.sample(range(len(samples)), rng.randint(1, len(samples)))
        mixed = route.scores([samples[i] for i in order], rng.randint(1, 600), None)
        torch.testing.assert_close(mixed, alone[order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", WITH_SEGMENTS)
@torch.inference_mode()
def test_segments_have_the_same_effect_as_in_the_networks_own_forward(kind: str) -> None:
    network = make_network(kind)
    route = choose_route(network, LONGEST)
    samples = random_samples(network, 16, segments=True, seed=3)
    alone = plain_scores(network, samples)
    without = plain_scores(network, [Encoded(s.ids, None, truncated=False) for s in samples])
    assert (alone - without).abs().max() > 1e-2
    for batch_tokens in BATCH_TOKENS:
        torch.testing.assert_close(route.scores(samples, batch_tokens, None), alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [kind for kind, _ in ROUTES])
def test_gradients_equal_those_of_the_networks_own_forward(kind: str) -> None:
    network = make_network(kind)
    route = choose_route(network, LONGEST)
    samples = random_samples(network, 9, segments=False, seed=4)
    ours = gradients(network, route.scores(samples, 150, None))
    assert_same_gradients(ours, gradients(network, plain_scores(network, samples)))


@pytest.mark.parametrize(
    ("kind", "name"), [("bert-few-positions", "encoder"), ("mistral-24-window", "decoder")]
)
def test_a_route_is_tested_on_sequences_within_the_models_limit(
    kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with no_warning(caplog):
        assert choose_route(make_network(kind), 24).name == name


@torch.inference_mode()
def test_a_network_whose_scores_change_with_padding_runs_sequences_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = make_network("xlnet")
    with caplog.at_level(logging.WARNING):
        route = choose_route(network, LONGEST)
    assert "padding changes its scores" in caplog.text
    samples = random_samples(network, 12, segments=False, seed=11)
    alone = plain_scores(network, samples)
    assert alone.std() > 0.05
    torch.testing.assert_close(route.scores(samples, 10**6, None), alone, atol=1e-4, rtol=0)


def test_a_network_with_a_window_shorter_than_the_longest_sequence_takes_the_padded_route() -> None:
    network = make_network("mistral-wide-window")
    assert choose_route(network, LONGEST).name == "decoder"
    assert choose_route(network, LONGEST + 1).name == "padded"


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "qwen3"])
def test_a_network_with_a_forward_hook_on_a_layer_takes_the_padded_route(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = make_network(kind)
    base: Any = network.base_model
    layer = (base.encoder.layer if kind in ENCODERS else base.layers)[0]
    layer.register_forward_hook(lambda _module, _inputs, output: scaled(output))
    with caplog.at_level(logging.WARNING):
        route = choose_route(network, LONGEST)
    assert route.name == "padded"
    assert type(network).__name__ in caplog.text
    assert "differs from the network's own" in caplog.text
    samples = random_samples(network, 8, segments=False, seed=5)
    with torch.inference_mode():
        torch.testing.assert_close(
            route.scores(samples, 300, None), plain_scores(network, samples), atol=1e-4, rtol=0
        )


def scaled(output: Any) -> Any:
    return (output[0] * 1.5, *output[1:]) if isinstance(output, tuple) else output * 1.5


def test_a_network_with_a_replaced_layer_takes_the_padded_route(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = make_network("llama")
    base: Any = network.base_model

    class Gated(type(base.layers[1])):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            changed: Tensor = super().forward(hidden_states, *args, **kwargs)
            return changed + 0.5 * hidden_states

    base.layers[1].__class__ = Gated
    with caplog.at_level(logging.WARNING):
        assert choose_route(network, LONGEST).name == "padded"
    assert len(caplog.records) == 1


def test_a_subclass_of_a_known_network_takes_the_padded_route() -> None:
    network = make_network("llama")

    class Own(type(network)):  # type: ignore[misc]
        pass

    network.__class__ = Own
    assert choose_route(network, LONGEST).name == "padded"


def test_modules_inserted_into_a_known_network_are_run() -> None:
    """Adapters replace linear layers, and the packed forward calls the replacements."""
    network = make_network("llama")
    base: Any = network.base_model
    for layer in base.layers:
        layer.self_attn.q_proj = nn.Sequential(layer.self_attn.q_proj, nn.Linear(32, 32))
    route = choose_route(network, LONGEST)
    assert route.name == "decoder"
    samples = random_samples(network, 8, segments=False, seed=6)
    with torch.inference_mode():
        torch.testing.assert_close(
            route.scores(samples, 300, None), plain_scores(network, samples), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "qwen3", "distilbert"])
@torch.inference_mode()
def test_changed_weights_take_effect_immediately(kind: str) -> None:
    network = make_network(kind)
    route = choose_route(network, LONGEST)
    samples = random_samples(network, 8, segments=False, seed=7)
    before = route.scores(samples, 300, None)

    def check() -> Tensor:
        scores = route.scores(samples, 300, None)
        torch.testing.assert_close(scores, plain_scores(network, samples), atol=1e-4, rtol=0)
        return scores

    for parameter in network.parameters():
        parameter.mul_(1.1)
    in_place = check()
    assert (in_place - before).abs().max() > 1e-2
    network.load_state_dict(make_network(kind, seed=8).state_dict())
    loaded = check()
    assert (loaded - in_place).abs().max() > 1e-2


def test_scores_require_gradients_only_outside_no_grad() -> None:
    for kind in ("bert", "llama", "distilbert"):
        network = make_network(kind)
        route = choose_route(network, LONGEST)
        samples = random_samples(network, 3, segments=False, seed=9)
        assert route.scores(samples, 100, None).requires_grad
        with torch.no_grad():
            assert not route.scores(samples, 100, None).requires_grad


@pytest.mark.parametrize(("kind", "packed"), [("bert", PackedEncoder), ("llama", PackedDecoder)])
def test_tokens_beyond_the_batch_go_to_the_next_forward(kind: str, packed: type[Any]) -> None:
    """No forward has more than `batch_tokens` tokens, unless it has a single sequence."""
    network = make_network(kind)
    route: Route = packed(network)
    seen: list[int] = []
    embeddings = network.get_input_embeddings()
    embeddings.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].numel()))
    samples = random_samples(network, 24, segments=False, seed=10)
    with torch.inference_mode():
        for batch_tokens in (1, 64, 200):
            seen.clear()
            route.scores(samples, batch_tokens, None)
            assert max(seen) <= max(batch_tokens, LONGEST)
            assert sum(seen) <= sum(len(s.ids) for s in samples)
            if batch_tokens == 1:
                assert len(seen) == len(samples)
            if batch_tokens == 200:
                assert len(seen) < len(samples) / 2
