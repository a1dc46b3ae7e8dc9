from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, cycle, islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from metarm.errors import TrainingError
from metarm.model.reward_model import RewardModel, load_model
from metarm.records import Preference, SampleGroup
from tests.metarm.model.forward.networks import plain_scores
from tests.tiny import Kind, encode_one
from trainer.batches import (
    EncodedGroup,
    EncodedPair,
    GroupContrast,
    GroupDifference,
    backward_preference,
    cut_of,
    draw,
    encode_groups,
    encode_pairs,
)
from trainer.meta_update import difference_loss, preference_loss
from trainer.training import score_pairs

KINDS: list[Kind] = ["bert", "llama", "llama-chat"]
ALL_AT_ONCE = 10**9
Kinds = Callable[[Kind], Path]

PREFERENCES = [
    Preference(
        f"What is {i} plus {i}? " * (1 + i % 4), "It is forty two. " * (1 + i % 3), "No." * (i % 5), i / 10
    )
    for i in range(9)
]
GROUPS = [
    SampleGroup(
        id=f"g{i}",
        request_id="r",
        prompt=f"Compare the {i} trains. " * (1 + i % 3),
        responses=tuple(f"The {j} is cheaper than {i}. " * (1 + (i + j) % 4) for j in range(2 + i % 4)),
        scores=(0.0,) * (2 + i % 4),
        version="v000001",
        scored_at=0.0,
    )
    for i in range(7)
]


def exact_model(path: Path) -> RewardModel:
    """A model in float64, so that gradients differ only if their terms differ."""
    model = load_model(path, 128)
    model.network.double()
    return model


def gradients(model: RewardModel) -> Tensor:
    """All gradients in one vector; the gradients of the model are cleared."""
    found = torch.cat([p.grad.flatten() for p in model.network.parameters() if p.grad is not None])
    model.network.zero_grad(set_to_none=True)
    return found


def assert_same(left: Tensor, right: Tensor) -> None:
    assert left.norm() > 0
    assert (left - right).norm() <= 1e-6 * right.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_give_the_loss_and_gradient_of_the_whole_preference_batch(
    checkpoint: Kinds, kind: Kind
) -> None:
    model = exact_model(checkpoint(kind))
    pairs = encode_pairs(model.encoder, PREFERENCES)
    whole_loss = backward_preference(model, pairs, ALL_AT_ONCE)
    whole = gradients(model)
    for micro_tokens in (1, 100):
        assert backward_preference(model, pairs, micro_tokens) == pytest.approx(whole_loss, rel=1e-6)
        assert_same(gradients(model), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_give_the_value_and_gradient_of_the_whole_difference_batch(
    checkpoint: Kinds, kind: Kind
) -> None:
    model = exact_model(checkpoint(kind))
    groups = encode_groups(model.encoder, GROUPS)
    whole_value = GroupDifference(model, groups, 5, ALL_AT_ONCE).backward()
    whole = gradients(model)
    for micro_tokens in (1, 200):
        assert GroupDifference(model, groups, 5, micro_tokens).backward() == pytest.approx(
            whole_value, rel=1e-6
        )
        assert_same(gradients(model), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_tokens", [1, 200, ALL_AT_ONCE])
def test_the_hessian_product_equals_that_of_the_plain_network(
    checkpoint: Kinds, kind: Kind, micro_tokens: int
) -> None:
    model = exact_model(checkpoint(kind))
    groups = encode_groups(model.encoder, GROUPS)
    parameters = list(model.network.parameters())
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in parameters]
    with sdpa_kernel(SDPBackend.MATH):
        rows = [plain_scores(model.network, group.responses)[None] for group in groups]
        values = [difference_loss(row, torch.ones(row.shape, dtype=torch.bool)) for row in rows]
        inner = torch.autograd.grad(
            torch.cat(values).mean(), parameters, create_graph=True, materialize_grads=True
        )
        along = torch.stack([(g * v).sum() for g, v in zip(inner, vectors, strict=True)]).sum()
        (3.0 * along).backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    GroupDifference(model, groups, 5, micro_tokens).hessian_product(parameters, vectors, 3.0)
    assert_same(gradients(model), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_preference_gradient_equals_that_of_the_mean_over_pairs_scored_one_by_one(
    checkpoint: Kinds, kind: Kind
) -> None:
    model = exact_model(checkpoint(kind))
    pairs = encode_pairs(model.encoder, PREFERENCES)
    loss = torch.stack(
        [
            preference_loss(model.scores([p.chosen]), model.scores([p.rejected]), torch.tensor([q.margin]))[0]
            for p, q in zip(pairs, PREFERENCES, strict=True)
        ]
    ).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    assert backward_preference(model, pairs, 300) == pytest.approx(loss.item(), rel=1e-6)
    assert_same(gradients(model), expected)


@pytest.mark.parametrize("micro_tokens", [1, 300])
def test_label_smoothing_and_centring_are_averaged_over_all_pairs(checkpoint: Kinds, micro_tokens: int) -> None:
    model = exact_model(checkpoint("bert"))
    pairs = encode_pairs(model.encoder, PREFERENCES)
    chosen = torch.stack([plain_scores(model.network, [p.chosen])[0] for p in pairs])
    rejected = torch.stack([plain_scores(model.network, [p.rejected])[0] for p in pairs])
    gaps = chosen - rejected - torch.tensor([p.margin for p in PREFERENCES])
    smoothed = -0.9 * gaps.sigmoid().log() - 0.1 * (-gaps).sigmoid().log()
    loss = (smoothed + 0.3 * (chosen + rejected) ** 2).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    found = backward_preference(model, pairs, micro_tokens, label_smoothing=0.1, center_rewards_coefficient=0.3)
    assert found == pytest.approx(loss.item(), rel=1e-6)
    assert_same(gradients(model), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_difference_gradient_averages_over_prompts_of_different_sizes(
    checkpoint: Kinds, kind: Kind
) -> None:
    model = exact_model(checkpoint(kind))
    groups = encode_groups(model.encoder, GROUPS)
    assert {len(group.responses) for group in groups} == {2, 3, 4, 5}
    rows = [torch.cat([model.scores([r]) for r in group.responses])[None] for group in groups]
    value = torch.cat([difference_loss(row, torch.ones(row.shape, dtype=torch.bool)) for row in rows]).mean()
    value.backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    assert GroupDifference(model, groups, 5, 300).backward() == pytest.approx(value.item(), rel=1e-6)
    assert_same(gradients(model), expected)


def test_a_backward_pass_adds_to_existing_gradients(checkpoint: Kinds) -> None:
    model = exact_model(checkpoint("bert"))
    pairs = encode_pairs(model.encoder, PREFERENCES)
    backward_preference(model, pairs, ALL_AT_ONCE)
    once = gradients(model)
    backward_preference(model, pairs, ALL_AT_ONCE)
    backward_preference(model, pairs, ALL_AT_ONCE)
    assert_same(gradients(model), 2 * once)


@pytest.mark.parametrize("k", [2, 3])
def test_only_the_first_k_responses_of_a_group_are_used(checkpoint: Kinds, k: int) -> None:
    model = exact_model(checkpoint("bert"))
    groups = encode_groups(model.encoder, GROUPS)
    cut = [EncodedGroup(group.id, group.responses[:k]) for group in groups]
    value = GroupDifference(model, cut, 99, ALL_AT_ONCE).backward()
    expected = gradients(model)
    assert GroupDifference(model, groups, k, ALL_AT_ONCE).backward() == value
    assert torch.equal(gradients(model), expected)
    assert GroupDifference(model, groups, 99, ALL_AT_ONCE).backward() != value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_tokens", [1, 200, ALL_AT_ONCE])
def test_the_contrast_averages_over_samples_each_compared_with_the_next_reference(
    checkpoint: Kinds, kind: Kind, micro_tokens: int
) -> None:
    model = exact_model(checkpoint(kind))
    groups = encode_groups(model.encoder, GROUPS)
    references = [pair.chosen for pair in encode_pairs(model.encoder, PREFERENCES)]
    samples = list(chain.from_iterable(group.responses[:3] for group in groups))
    assert len(samples) > len(references)
    against = list(islice(cycle(references), len(samples)))
    gaps = plain_scores(model.network, against) + 0.7 - plain_scores(model.network, samples)
    value = gaps.sigmoid().log().mean()
    value.backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    found = GroupContrast(model, groups, cycle(references), 0.7, 3, micro_tokens).backward()
    assert found == pytest.approx(value.item(), rel=1e-6)
    assert_same(gradients(model), expected)


def test_pairs_and_groups_are_encoded_in_order(checkpoint: Kinds) -> None:
    encoder = load_model(checkpoint("bert"), 128).encoder
    assert encode_pairs(encoder, PREFERENCES) == [
        EncodedPair(
            encode_one(encoder, p.prompt, p.chosen), encode_one(encoder, p.prompt, p.rejected), p.margin
        )
        for p in PREFERENCES
    ]
    assert encode_groups(encoder, GROUPS) == [
        EncodedGroup(g.id, [encode_one(encoder, g.prompt, response) for response in g.responses])
        for g in GROUPS
    ]
    assert encode_pairs(encoder, []) == []
    assert encode_groups(encoder, []) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_raises_a_training_error_that_names_it(checkpoint: Kinds, bad: float) -> None:
    model = load_model(checkpoint("bert"), 128)
    head = model.network.get_parameter("classifier.weight")
    with torch.no_grad():
        head.fill_(bad)
    with pytest.raises(TrainingError, match="preference loss"):
        backward_preference(model, encode_pairs(model.encoder, PREFERENCES), ALL_AT_ONCE)
    with pytest.raises(TrainingError, match="groups g0, g1, g2"):
        GroupDifference(model, encode_groups(model.encoder, GROUPS), 5, ALL_AT_ONCE).backward()
    references = cycle(pair.chosen for pair in encode_pairs(model.encoder, PREFERENCES))
    with pytest.raises(TrainingError, match="groups g0, g1, g2"):
        GroupContrast(model, encode_groups(model.encoder, GROUPS), references, 1.0, 5, ALL_AT_ONCE).backward()
    assert all(p.grad is None for p in model.network.parameters())


def test_a_non_finite_margin_raises_a_training_error_and_leaves_no_gradient(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    references = cycle(pair.chosen for pair in encode_pairs(model.encoder, PREFERENCES))
    groups = encode_groups(model.encoder, GROUPS)
    with pytest.raises(TrainingError, match="not finite"):
        GroupContrast(model, groups, references, float("nan"), 5, ALL_AT_ONCE).backward()
    assert all(p.grad is None for p in model.network.parameters())


@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 5))
def test_every_item_is_drawn_once_before_any_is_repeated(items: int, size: int, seed: int) -> None:
    batches = list(islice(draw(range(items), size, random.Random(seed)), 30))
    assert {len(batch) for batch in batches} == {size}
    flat = [item for batch in batches for item in batch]
    for start in range(0, len(flat) - items + 1, items):
        assert sorted(flat[start : start + items]) == list(range(items))
    counts = Counter(flat)
    assert max(counts.values()) - min(counts[i] for i in range(items)) <= 1


def test_batches_depend_only_on_the_seed() -> None:
    def drawn(seed: int) -> Sequence[list[int]]:
        return list(islice(draw(range(50), 8, random.Random(seed)), 20))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1)[0] != list(range(8))


def test_pairs_that_the_limit_of_tokens_cuts_or_makes_equal_are_counted_and_tie(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 16)
    end = " and that is all that we know of it now, as we said before, and will say again, in the end."
    prompt = "Who?"
    cut = [Preference(prompt, f"{begin}{end}", f"{other}{end}") for begin, other in (("Yes", "No"), ("A", "B"))]
    encoded = encode_pairs(model.encoder, [*cut, Preference(prompt, "I am.", "We are.")])
    assert cut_of(encoded, 16) == (
        "2 of 3 pairs lose tokens to the limit of 16; "
        "2 of 3 pairs have the same tokens on both sides, and teach nothing"
    )
    assert cut_of(encoded[2:], 16) is None
    assert score_pairs(model, encoded).wins[:2] == [0.5, 0.5]
