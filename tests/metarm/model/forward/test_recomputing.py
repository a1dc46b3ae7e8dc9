"""Gradient checkpointing gives the same gradients on every route."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from metarm.errors import ConfigurationError
from metarm.model.encoding import Encoded
from metarm.model.forward import choose_route
from tests.metarm.model.forward.networks import LONGEST, gradients, make_network
from tests.metarm.model.forward.test_routes import random_samples

ROUTES = ["bert", "roberta", "llama", "qwen3", "distilbert", "gpt2", "modernbert", "deberta-v2", "bert-causal"]


def sharing(samples: list[Encoded]) -> list[Encoded]:
    """Append three samples that share a long prompt and exceed one batch, so that the prompt is cached."""
    prompt = (samples[1].ids * 2)[:40]
    more = [Encoded(prompt + s.ids[:20], None, truncated=False, prompt_tokens=40) for s in samples[:3]]
    return samples + more


def count_calls(network: PreTrainedModel, run: Callable[[], object]) -> int:
    """Count the calls of the first linear layer of the trunk."""
    calls: list[None] = []
    linear = next(m for n, m in network.base_model.named_modules() if n.endswith(("query", "q_proj", "q_lin")))
    hook = linear.register_forward_hook(lambda *_: calls.append(None))
    run()
    hook.remove()
    return len(calls)


@pytest.mark.parametrize("kind", ROUTES)
def test_gradients_equal_those_of_the_plain_backward_pass(kind: str) -> None:
    network = make_network(kind)
    route = choose_route(network, LONGEST)
    samples = sharing(random_samples(network, 8, segments=False, seed=3))
    expected = gradients(network, route.scores(samples, 64, None))
    with route.recomputing():
        scores = route.scores(samples, 64, None)
        found = gradients(network, scores)
    assert torch.equal(scores, route.scores(samples, 64, None))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("kind", ROUTES)
def test_second_derivatives_equal_those_of_the_plain_backward_pass(kind: str) -> None:
    network = make_network(kind).double()
    route = choose_route(network, LONGEST)
    samples = random_samples(network, 4, segments=False, seed=3)
    parameters = [p for p in network.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        expected = _hessian_product(parameters, route.scores(samples, 64, None))
        with route.recomputing():
            found = _hessian_product(parameters, route.scores(samples, 64, None))
    assert sum(bool(h.abs().max() > 1e-6) for h in expected) > 5
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def _hessian_product(parameters: list[Parameter], scores: Tensor) -> list[Tensor]:
    """The Hessian-vector product of the sum of squared scores, along the parameters themselves."""
    inner = torch.autograd.grad(scores.square().sum(), parameters, create_graph=True, materialize_grads=True)
    along = torch.stack([(g * p.detach()).sum() for g, p in zip(inner, parameters, strict=True)]).sum()
    return list(torch.autograd.grad(along, parameters, materialize_grads=True))


@pytest.mark.parametrize("kind", ["bert", "llama", "distilbert"])
def test_layers_are_recomputed_in_the_backward_pass_only_inside_the_block(kind: str) -> None:
    network = make_network(kind)
    route = choose_route(network, LONGEST)
    samples = random_samples(network, 4, segments=False, seed=3)

    def backward() -> None:
        gradients(network, route.scores(samples, 10**6, None))

    once = count_calls(network, backward)
    with route.recomputing():
        assert count_calls(network, backward) == 2 * once
        with torch.no_grad():
            assert count_calls(network, lambda: route.scores(samples, 10**6, None)) == once
    assert count_calls(network, backward) == once


def test_a_network_without_support_for_checkpointing_is_rejected() -> None:
    network = make_network("xlnet")
    route = choose_route(network, LONGEST)
    with pytest.raises(ConfigurationError, match="gradient checkpointing"), route.recomputing():
        pass


def test_the_config_of_the_network_is_restored() -> None:
    network = make_network("gpt2")
    before = network.config.to_dict()
    with choose_route(network, LONGEST).recomputing():
        pass
    assert network.config.to_dict() == before
