"""Responses to a shared prompt: each scores as if alone, and the tokens of the prompt run once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from metarm.model.encoding import Encoded
from metarm.model.forward import PrefixCache, PrefixStore
from metarm.model.forward.decoder import MIN_PREFIX_TOKENS, PackedDecoder
from metarm.model.reward_model import load_model
from tests.metarm.model.forward.networks import (
    VOCABULARY,
    assert_same_gradients,
    gradients,
    make_network,
    plain_scores,
    random_ids,
)
from tests.tiny import Kind

KINDS = [
    "llama",
    "llama-bias",
    "llama-pad-is-eos",
    "llama-no-pad",
    "llama-one-layer",
    "mistral",
    "qwen2",
    "qwen3",
]
BATCH_TOKENS = (1, 64, 200, 10**6)
ROOMY = 10**9  # bytes; such a cache drops nothing
SMALL = 50_000  # bytes; such a cache holds about half the prompts of `mixed_groups`
Kinds = Callable[[Kind], Path]


@pytest.fixture(scope="module")
def network() -> PreTrainedModel:
    return make_network("llama")


def group(prompt: Sequence[int], responses: Sequence[Sequence[int]]) -> list[Encoded]:
    return [
        Encoded([*prompt, *response], None, truncated=False, prompt_tokens=len(prompt))
        for response in responses
    ]


def random_group(rng: random.Random, prompt_tokens: int, count: int) -> list[Encoded]:
    prompt = random_ids(rng, prompt_tokens)
    return group(prompt, [random_ids(rng, rng.randint(1, 20)) for _ in range(count)])


def mixed_groups(seed: int) -> list[Encoded]:
    """Shuffled groups of many shapes.

    Prompts are short or long, begin with one another, or end in padding. Groups have one response or many.
    Some responses have one token, are empty, or occur twice.
    """
    rng = random.Random(seed)
    long = random_ids(rng, 40)
    samples = group(long, [random_ids(rng, n) for n in (1, 1, 5, 20)])
    samples += group(long[:25], [random_ids(rng, n) for n in (3, 9)])
    samples += group(long[:25], [long[25:40], long[25:33]])  # continues like the longer prompt
    samples += group(long, [[], random_ids(rng, 4), []])
    for length in range(MIN_PREFIX_TOKENS - 2, MIN_PREFIX_TOKENS + 3):
        samples += random_group(rng, length, rng.randint(1, 4))
    samples += random_group(rng, 0, 2) + random_group(rng, 33, 1) + random_group(rng, 60, 7)
    samples += group(
        random_ids(rng, 20), [[2], [2, 2], [5, 2, 3], [3, 3]]
    )  # 2 and 3 are the padding tokens of some networks
    samples += group([7] * 20 + [2, 2], [[2, 2], [9], []])  # the prompt ends in padding
    samples += samples[2:5]
    rng.shuffle(samples)
    return samples


def separate(samples: Sequence[Encoded]) -> list[Encoded]:
    return [Encoded(s.ids, s.type_ids, s.truncated) for s in samples]


@contextmanager
def counted_tokens(network: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """A function that returns how many tokens passed the first layer since its last call."""
    counted = 0

    def count(_module: object, inputs: tuple[Tensor], _output: Tensor) -> None:
        nonlocal counted
        counted += inputs[0].shape[-2]

    def read() -> int:
        nonlocal counted
        tokens, counted = counted, 0
        return tokens

    base: Any = network.base_model
    hook = base.layers[0].mlp.register_forward_hook(count)
    try:
        yield read
    finally:
        hook.remove()


def check(route: PackedDecoder, samples: list[Encoded], alone: Tensor, store: PrefixStore | None) -> None:
    for batch_tokens in BATCH_TOKENS:
        scores = route.scores(samples, batch_tokens, store)
        torch.testing.assert_close(scores, alone, atol=1e-4, rtol=0, msg=f"{batch_tokens}: ".__add__)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_responses_to_a_shared_prompt_score_as_if_alone(kind: str) -> None:
    network = make_network(kind)
    samples = mixed_groups(len(kind))
    alone = plain_scores(network, samples)
    assert alone.std() > 0.05
    check(PackedDecoder(network), samples, alone, None)


@pytest.mark.parametrize("kind", ["llama", "llama-pad-is-eos", "qwen3"])
@pytest.mark.parametrize("max_bytes", [1, SMALL, ROOMY])
@torch.inference_mode()
def test_prompts_cached_between_calls_change_no_score(kind: str, max_bytes: int) -> None:
    """A cache of one byte keeps nothing, a small one drops prompts all the time, a large one drops none."""
    network = make_network(kind)
    looked_up: list[bool] = []
    cache = PrefixCache(max_bytes, looked_up.append)
    samples = mixed_groups(0)
    alone = plain_scores(network, samples)
    check(PackedDecoder(network), samples, alone, cache.of("v000001"))
    check(PackedDecoder(network), samples[::-1], alone.flip(0), cache.of("v000001"))
    found, missed = looked_up.count(True), looked_up.count(False)
    if max_bytes == 1:
        assert found == 0
    elif max_bytes == SMALL:
        assert 0 < found < missed
    else:
        assert found > 5 * missed  # each prompt is missed once
    assert cache.bytes <= max_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_shared_prompts_equal_the_plain_ones(kind: str) -> None:
    network = make_network(kind)
    samples = mixed_groups(1)
    expected = gradients(network, plain_scores(network, samples))
    for batch_tokens in (30, 200, 10**6):
        ours = gradients(network, PackedDecoder(network).scores(samples, batch_tokens, None))
        assert_same_gradients(ours, expected)


tokens = st.integers(0, VOCABULARY - 1)
groups = st.lists(
    st.tuples(
        st.integers(0, 2),  # which of three long texts the prompt is a prefix of
        st.integers(0, 50),
        st.lists(st.lists(tokens, max_size=8), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@given(groups, st.integers(1, 200), st.sampled_from([None, 1, 6000, ROOMY]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
@torch.inference_mode()
def test_any_groups_in_any_order_score_as_if_alone(
    network: PreTrainedModel,
    groups: list[tuple[int, int, list[list[int]]]],
    batch_tokens: int,
    max_bytes: int | None,
    rng: random.Random,
) -> None:
    texts = [random_ids(random.Random(number), 50) for number in range(3)]
    samples = [s for text, length, responses in groups for s in group(texts[text][:length], responses) if s.ids]
    if not samples:
        return
    rng.shuffle(samples)
    alone = plain_scores(network, samples)
    store = PrefixCache(max_bytes).of("v000001") if max_bytes else None
    for _ in range(2 if store else 1):  # with a cold cache, then with a warm one
        scores = PackedDecoder(network).scores(samples, batch_tokens, store)
        torch.testing.assert_close(scores, alone, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_the_tokens_of_a_prompt_run_once_for_all_its_responses(network: PreTrainedModel) -> None:
    rng = random.Random(0)
    samples = group(random_ids(rng, 40), [random_ids(rng, length) for length in (3, 9, 1, 14)])
    answers = 3 + 9 + 1 + 14
    route = PackedDecoder(network)
    with counted_tokens(network) as ran:
        route.scores(samples, 10**6, None)
        assert ran() == 40 + answers
        for batch_tokens in (1, 44, 50):  # the group spans several batches
            route.scores(samples, batch_tokens, None)
            assert ran() == 40 + answers
        route.scores(separate(samples), 10**6, None)
        assert ran() == 4 * 40 + answers


@torch.inference_mode()
def test_a_cached_prompt_does_not_run_again_in_later_calls(network: PreTrainedModel) -> None:
    rng = random.Random(0)
    prompt = random_ids(rng, 40)
    store = PrefixCache(ROOMY).of("v000001")
    route = PackedDecoder(network)
    with counted_tokens(network) as ran:
        route.scores(group(prompt, [random_ids(rng, 3)]), 10**6, store)
        assert ran() == 43  # the prompt of a single response is cached too, because others may follow
        route.scores(group(prompt, [random_ids(rng, length) for length in (5, 2)]), 10**6, store)
        assert ran() == 7
        route.scores(group(prompt, [random_ids(rng, 6)]), 1, store)
        assert ran() == 6
        # a prefix of the prompt is a different prompt
        route.scores(group(prompt[:30], [random_ids(rng, 4)]), 10**6, store)
        assert ran() == 34


@torch.inference_mode()
def test_a_prompt_too_short_to_share_runs_with_each_response(network: PreTrainedModel) -> None:
    rng = random.Random(0)
    cache = PrefixCache(ROOMY)
    for length in (MIN_PREFIX_TOKENS - 1, MIN_PREFIX_TOKENS):
        samples = group(random_ids(rng, length), [random_ids(rng, 4) for _ in range(3)])
        with counted_tokens(network) as ran:
            PackedDecoder(network).scores(samples, 10**6, cache.of("v000001"))
            shared = length >= MIN_PREFIX_TOKENS
            assert ran() == (1 if shared else 3) * length + 12
        assert bool(cache.bytes) == shared


@torch.inference_mode()
def test_groups_share_a_batch_as_far_as_its_budget_allows(network: PreTrainedModel) -> None:
    """Responses to the same prompt meet in one batch, in whatever order they arrive."""
    rng = random.Random(0)
    samples = [s for _ in range(5) for s in random_group(rng, 30, 4)]
    rng.shuffle(samples)
    answers = sum(len(s.ids) - 30 for s in samples)
    forwards: list[int] = []
    hook = network.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: forwards.append(inputs[0].numel())
    )
    PackedDecoder(network).scores(samples, 150, None)
    hook.remove()
    assert sum(forwards) == 5 * 30 + answers
    assert max(forwards) <= 150


def test_a_model_without_prompt_sharing_gives_the_same_scores(checkpoint: Kinds) -> None:
    shared = load_model(checkpoint("llama"), 128)
    apart = load_model(checkpoint("llama"), 128, share_prompts=False)
    assert shared.shares_prompts
    assert not apart.shares_prompts
    prompt = "Rosa buys eight pencils at seven coins each. " * 2
    (samples,) = shared.encoder.encode([(prompt, ["Yes.", "", "It is forty two.", "Yes.", "Yes, and no."])])
    assert all(sample.prompt_tokens >= MIN_PREFIX_TOKENS for sample in samples)
    cache = PrefixCache(ROOMY)
    with torch.inference_mode(), counted_tokens(apart.network) as ran:
        expected = plain_scores(apart.network, samples)
        ran()
        scores = apart.scores(samples, prefixes=cache.of("v000001"))
        assert ran() == sum(
            len(s.ids) - 1 for s in samples
        )  # the end token is also the padding token and is not read
        assert cache.bytes == 0
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(shared.scores(samples), expected, atol=1e-4, rtol=0)


def test_an_encoder_model_does_not_share_prompts(checkpoint: Kinds) -> None:
    assert not load_model(checkpoint("bert"), 128).shares_prompts


@torch.inference_mode()
def test_versions_do_not_share_cached_prompts(network: PreTrainedModel) -> None:
    other = make_network("llama", seed=1)
    cache = PrefixCache(ROOMY)
    samples = mixed_groups(0)
    alone, others = plain_scores(network, samples), plain_scores(other, samples)
    assert (alone - others).abs().max() > 0.1
    for _ in range(2):
        check(PackedDecoder(network), samples, alone, cache.of("v000001"))
        check(PackedDecoder(other), samples, others, cache.of("v000002"))


def kept(tokens: int, fill: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of two layers: four float32 tensors of shape (2, tokens, 8)."""
    return [(torch.full((2, tokens, 8), fill), torch.full((2, tokens, 8), fill)) for _ in range(2)]


def size(tokens: int) -> int:
    return 2 * 2 * 2 * tokens * 8 * 4


def test_a_cache_counts_its_bytes_and_drops_the_least_recently_used_entries() -> None:
    looked_up: list[bool] = []
    cache = PrefixCache(size(30), looked_up.append)
    store = cache.of("v000001")
    for number in range(3):
        store.put((number,), kept(10))
    assert cache.bytes == size(30)
    assert store.get((0,)) is not None
    store.put((3,), kept(5))  # one entry is dropped: (1,) is the least recently used
    assert [store.get((number,)) is not None for number in range(4)] == [True, False, True, True]
    assert cache.bytes == size(25)
    store.put((4,), kept(30))  # all entries are dropped
    assert [store.get((number,)) is not None for number in range(5)] == [False] * 4 + [True]
    assert cache.bytes == size(30)
    assert looked_up.count(True) == 1 + 3 + 1


def test_a_prompt_larger_than_the_whole_cache_is_not_kept_and_drops_nothing() -> None:
    cache = PrefixCache(size(10))
    store = cache.of("v000001")
    store.put((1,), kept(10))
    store.put((2,), kept(11))
    assert store.get((1,)) is not None
    assert store.get((2,)) is None
    assert cache.bytes == size(10)


def test_a_prompt_cached_twice_is_counted_once() -> None:
    cache = PrefixCache(size(100))
    for _ in range(3):
        cache.of("v000001").put((1,), kept(10))
    assert cache.bytes == size(10)
    cache.of("v000002").put((1,), kept(10))
    assert cache.bytes == size(20)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from(["v000001", "v000002"])), max_size=60)
)
def test_the_byte_count_equals_the_size_of_the_cached_entries(steps: list[tuple[bool, int, str]]) -> None:
    cache = PrefixCache(size(24))
    for put, number, version in steps:
        if put:
            cache.put(version, (number,), kept(number))
        else:
            cache.get(version, (number,))
        assert cache.bytes <= size(24)
    found = [n for v in ("v000001", "v000002") for n in range(10) if cache.get(v, (n,)) is not None]
    assert cache.bytes == sum(size(number) for number in found)


@torch.inference_mode()
def test_cached_tensors_own_exactly_the_counted_memory(network: PreTrainedModel) -> None:
    """A view into a batch would keep the memory of the whole batch."""
    cache = PrefixCache(ROOMY)
    samples = random_group(random.Random(0), 40, 6)
    PackedDecoder(network).scores(samples, 10**6, cache.of("v000001"))
    found = cache.get("v000001", tuple(samples[0].ids[:40]))
    assert found is not None
    held = sum(tensor.untyped_storage().nbytes() for layer in found for tensor in layer)
    assert held == cache.bytes == 2 * 2 * 2 * 40 * 8 * 4


def test_threads_that_share_a_cache_give_the_scores_of_a_single_thread(network: PreTrainedModel) -> None:
    """The cache is small, so that each thread drops the prompts of the other."""
    cache = PrefixCache(40_000)
    batches = [mixed_groups(seed) for seed in range(4)]
    with torch.inference_mode():
        alone = [plain_scores(network, samples) for samples in batches]

    def work(number: int) -> None:
        with torch.inference_mode():
            for turn in range(8):
                place = (number + turn) % len(batches)
                scores = PackedDecoder(network).scores(batches[place], 100, cache.of("v000001"))
                torch.testing.assert_close(scores, alone[place], atol=1e-4, rtol=0)

    with ThreadPoolExecutor(2) as threads:
        for finished in [threads.submit(work, number) for number in range(2)]:
            finished.result()
    assert 0 < cache.bytes <= 40_000
