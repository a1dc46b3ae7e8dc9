"""Slices through real tiny models, in separate threads as in the service."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from metarm.model.encoding import Encoded
from metarm.model.forward import PrefixCache
from metarm.model.reward_model import RewardModel, load_model
from service.scoring.engine import Engine
from service.scoring.plan import ForwardPlan
from service.versions.live import LoadedVersion
from tests.metarm.model.forward.networks import plain_scores
from tests.tiny import Kind

Kinds = Callable[[Kind], Path]
KINDS: list[Kind] = ["bert", "llama"]
PLAN = ForwardPlan(workers=2, threads=1, batch_tokens=200, slice_tokens=200)


def loaded(folder: Path) -> LoadedVersion:
    return LoadedVersion("v000001", load_model(folder, 128))


def engine(prefixes: PrefixCache | None = None, plan: ForwardPlan = PLAN) -> Engine:
    made = Engine(prefixes)
    made.use(plan)
    return made


def forward(engine: Engine, version: LoadedVersion, samples: list[Encoded], share: int = 1) -> list[float]:
    with ThreadPoolExecutor(1, initializer=engine.begin, initargs=(0,)) as thread:
        return thread.submit(engine.forward, version, samples, share).result()


@contextmanager
def forwards(model: RewardModel) -> Iterator[list[int]]:
    """Count the tokens of each forward."""
    counted: list[int] = []
    hook = model.network.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: counted.append(inputs[0].numel())
    )
    yield counted
    hook.remove()


def random_samples(model: RewardModel, count: int, seed: int = 0) -> list[Encoded]:
    rng = random.Random(seed)
    ids = range(5, len(model.encoder.tokenizer))
    return [Encoded(rng.choices(ids, k=rng.randint(20, 60)), None, truncated=False) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_has_the_scores_of_a_plain_forward(checkpoint: Kinds, kind: Kind) -> None:
    version = loaded(checkpoint(kind))
    samples = random_samples(version.model, 20)
    with torch.inference_mode():
        alone = plain_scores(version.model.network, samples).tolist()
    assert forward(engine(), version, samples) == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_sequences_in_a_slice_are_computed_once(checkpoint: Kinds, kind: Kind) -> None:
    version = loaded(checkpoint(kind))
    distinct = random_samples(version.model, 5)
    order = [0, 1, 0, 2, 3, 3, 4, 0, 1]
    with forwards(version.model) as tokens:
        scores = forward(engine(), version, [distinct[i] for i in order])
        assert sum(tokens) == sum(len(sample.ids) for sample in distinct)
    expected = forward(engine(), version, distinct)
    assert scores == [expected[i] for i in order]
    assert len(set(expected)) == 5


def test_sequences_that_differ_only_in_segment_ids_are_scored_separately(checkpoint: Kinds) -> None:
    version = loaded(checkpoint("bert"))
    ids = random_samples(version.model, 1)[0].ids
    samples = [Encoded(ids, [0] * cut + [1] * (len(ids) - cut), truncated=False) for cut in (0, 5, len(ids))]
    assert len(set(forward(engine(), version, samples))) == 3


def test_no_forward_exceeds_the_planned_batch_tokens(checkpoint: Kinds) -> None:
    version = loaded(checkpoint("llama"))
    samples = random_samples(version.model, 20)
    with forwards(version.model) as tokens:
        forward(engine(plan=ForwardPlan(1, 1, 70, 200)), version, samples)
        assert max(tokens) <= 70
        tokens.clear()
        forward(engine(plan=ForwardPlan(1, 1, 10_000, 200)), version, samples)
        assert len(tokens) == 1


@pytest.mark.parametrize("share", [1, 3])
def test_a_slice_uses_the_threads_of_every_worker_in_its_share(
    checkpoint: Kinds, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    version = loaded(checkpoint("bert"))
    samples = random_samples(version.model, 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    threads: list[int] = []
    hook = version.model.network.get_input_embeddings().register_forward_hook(
        lambda *_: threads.append(torch.get_num_threads())
    )
    here = torch.get_num_threads()
    forward(engine(plan=ForwardPlan(2, 2, 10_000, 200)), version, samples, share)
    hook.remove()
    assert threads == [2 * share]
    assert torch.get_num_threads() == here


def test_a_prompt_is_computed_once_for_all_slices_of_a_version(checkpoint: Kinds) -> None:
    version, other = loaded(checkpoint("llama")), LoadedVersion("v000002", load_model(checkpoint("llama"), 128))
    prompt = random_samples(version.model, 1)[0].ids
    slices = [
        [Encoded([*prompt, number, 9], None, truncated=False, prompt_tokens=len(prompt)) for number in numbers]
        for numbers in ([5, 6], [7], [8, 10, 11])
    ]
    looked_up: list[bool] = []
    kept = engine(PrefixCache(10**8, looked_up.append))
    for version_ in (version, other):
        with forwards(version_.model) as tokens:
            for samples in slices:
                forward(kept, version_, samples)
            assert tokens == [len(prompt) + 4, 2, 6]
    assert looked_up == [False, True, True] * 2
    with forwards(version.model) as tokens:
        for samples in slices:
            forward(engine(None), version, samples)
        assert tokens == [len(prompt) + 4, len(prompt) + 2, len(prompt) + 6]


def test_the_engine_returns_non_finite_scores_unchanged(checkpoint: Kinds) -> None:
    version = loaded(checkpoint("bert"))
    samples = random_samples(version.model, 2)
    poison = next(token for token in samples[1].ids if token not in samples[0].ids)
    with torch.no_grad():
        version.model.network.base_model.embeddings.word_embeddings.weight[poison] = float("nan")
    first, second = forward(engine(), version, samples)
    assert first == first
    assert second != second
