from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from metarm.errors import ConfigurationError, JobCancelledError, TrainingError
from metarm.model.reward_model import RewardModel, load_model
from metarm.records import ASCENT_RATES, Ascent, Preference, SampleGroup, Trainable
from tests.tiny import Kind
from trainer.batches import backward_preference, encode_groups, encode_pairs
from trainer.meta_update import StepReport
from trainer.settings import TrainerSettings
from trainer.training import TrainOptions, TrainReport, score_pairs, train

Kinds = Callable[[Kind], Path]

PREFERENCES = [
    Preference(
        f"What is {i} plus {i}?", f"It is {2 * i}, and the reasoning is short.", "More words! " * (1 + i % 3)
    )
    for i in range(24)
]
GROUPS = [
    SampleGroup(
        id=f"g{i}",
        request_id="r",
        prompt=f"Compare the {i} trains.",
        responses=tuple(f"The {j} is cheaper than {i}. " * (1 + (i + j) % 3) for j in range(3)),
        scores=(0.0, 0.0, 0.0),
        version="v000001",
        scored_at=0.0,
    )
    for i in range(12)
]
SMALL: Mapping[str, Any] = {
    "steps": 5,
    "batch_size": 4,
    "meta_batch_size": 2,
    "responses_per_prompt": 3,
    "learning_rate": 1e-3,
    "ascent_rate": 0.1,
}


def ignore_step(_step: int, _report: StepReport) -> None:
    pass


def run(
    path: Path, on_step: Callable[[int, StepReport], None] = ignore_step, pairs: int = 24, **changes: Any
) -> tuple[RewardModel, TrainReport]:
    model = load_model(path, 128)
    options = TrainOptions.of(TrainerSettings(), {**SMALL, **changes})
    report = train(
        model,
        encode_pairs(model.encoder, PREFERENCES[:pairs]),
        encode_groups(model.encoder, GROUPS),
        options,
        on_step,
    )
    return model, report


def parameters(model: RewardModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.network.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("ascent", get_args(Ascent))
def test_the_same_seed_gives_the_same_parameters(checkpoint: Kinds, kind: Kind, ascent: Ascent) -> None:
    first, report = run(checkpoint(kind), ascent=ascent, seed=3)
    again, same = run(checkpoint(kind), ascent=ascent, seed=3)
    other, _ = run(checkpoint(kind), ascent=ascent, seed=4)
    assert torch.equal(parameters(first), parameters(again))
    assert report.curve == same.curve
    assert not torch.equal(parameters(first), parameters(other))
    assert not torch.equal(parameters(first), parameters(load_model(checkpoint(kind), 128)))


def test_an_ascent_rate_that_is_not_given_defaults_to_that_of_the_ascent() -> None:
    def rate(changes: Mapping[str, Any], **settings: Any) -> float:
        return TrainOptions.of(TrainerSettings(_env_file=None, **settings), changes).ascent_rate

    assert rate({}) == ASCENT_RATES[TrainerSettings(_env_file=None).ascent]
    for ascent, own in ASCENT_RATES.items():
        assert rate({"ascent": ascent}) == own
        assert rate({"ascent": ascent, "ascent_rate": 0.7}) == 0.7
    assert rate({"ascent": "sgd"}, ascent="sgd", ascent_rate=3.0) == 3.0
    assert rate({"ascent": "joint"}, ascent="sgd", ascent_rate=3.0) == ASCENT_RATES["joint"]


def test_the_conservative_ascent_lowers_samples_that_outscore_chosen_responses(checkpoint: Kinds) -> None:
    @torch.inference_mode()
    def gap(model: RewardModel) -> float:
        chosen = [pair.chosen for pair in encode_pairs(model.encoder, PREFERENCES)]
        samples = [response for group in encode_groups(model.encoder, GROUPS) for response in group.responses]
        return float(model.scores(samples).mean() - model.scores(chosen).mean())

    options: Mapping[str, Any] = {"steps": 20, "ascent_rate": 5.0}
    conservative, _ = run(checkpoint("bert"), ascent="conservative", **options)
    vanilla, _ = run(checkpoint("bert"), ascent="none", steps=20)
    assert gap(conservative) < gap(vanilla) - 0.1


def test_metarm_with_ascent_rate_zero_equals_vanilla_bit_for_bit(checkpoint: Kinds) -> None:
    metarm, with_difference = run(checkpoint("bert"), ascent="sgd", ascent_rate=0.0, steps=20)
    vanilla, without = run(checkpoint("bert"), ascent="none", steps=20)
    assert torch.equal(parameters(metarm), parameters(vanilla))
    assert [step.loss for step in with_difference.curve] == [step.loss for step in without.curve]
    assert {step.difference for step in without.curve} == {None}
    assert None not in {step.difference for step in with_difference.curve}


def test_the_ascent_changes_the_trained_parameters(checkpoint: Kinds) -> None:
    metarm, _ = run(checkpoint("bert"), ascent="sgd")
    vanilla, _ = run(checkpoint("bert"), ascent="none")
    assert not torch.equal(parameters(metarm), parameters(vanilla))


def test_a_vanilla_run_needs_no_groups(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    options = TrainOptions.of(TrainerSettings(), {**SMALL, "ascent": "none"})
    assert train(model, encode_pairs(model.encoder, PREFERENCES), [], options, ignore_step).steps == 5


def test_every_step_is_reported_when_it_is_done(checkpoint: Kinds) -> None:
    seen: list[tuple[int, StepReport]] = []
    _, report = run(checkpoint("bert"), on_step=lambda step, r: seen.append((step, r)))
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5]
    assert [r for _, r in seen] == report.curve
    assert (report.steps, report.stopped_by) == (5, "steps")


def test_the_time_limit_stops_a_run_and_is_named_in_the_report(checkpoint: Kinds) -> None:
    _, report = run(checkpoint("bert"), on_step=lambda *_: time.sleep(0.06), steps=100, time_limit_s=0.1)
    assert report.stopped_by == "time_limit"
    assert 1 <= report.steps < 100
    assert len(report.curve) == report.steps
    assert report.seconds > 0.1
    assert report.summary()["stopped_by"] == "time_limit"


def test_a_run_that_completes_its_steps_at_the_time_limit_is_stopped_by_its_steps(checkpoint: Kinds) -> None:
    _, report = run(checkpoint("bert"), steps=1, time_limit_s=1e-9)
    assert (report.steps, report.stopped_by) == (1, "steps")


@pytest.mark.parametrize("ascent", ["sgd", "none"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_few_pairs_are_memorised(checkpoint: Kinds, kind: Kind, ascent: Ascent) -> None:
    model, report = run(
        checkpoint(kind), pairs=4, ascent=ascent, steps=40, learning_rate=5e-3, ascent_rate=0.01
    )
    summary = report.summary()
    assert summary["loss_last"] < 0.05 < summary["loss_first"]
    scores = score_pairs(model, encode_pairs(model.encoder, PREFERENCES[:4]))
    assert all(c > r for c, r in zip(scores.chosen, scores.rejected, strict=True))


def test_the_loss_options_change_the_update_and_zero_disables_them(checkpoint: Kinds) -> None:
    plain, _ = run(checkpoint("bert"))
    off, _ = run(checkpoint("bert"), label_smoothing=0.0, center_rewards_coefficient=0.0)
    smoothed, _ = run(checkpoint("bert"), label_smoothing=0.2)
    centred, _ = run(checkpoint("bert"), center_rewards_coefficient=0.5)
    assert torch.equal(parameters(plain), parameters(off))
    assert not torch.equal(parameters(plain), parameters(smoothed))
    assert not torch.equal(parameters(plain), parameters(centred))


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["full", "lora", "head"])
@pytest.mark.parametrize("ascent", ["none", "sgd", "second_order"])
@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_gradient_checkpointing_does_not_change_the_trained_parameters(
    checkpoint: Kinds, kind: Kind, ascent: Ascent, trainable: Trainable
) -> None:
    plain, _ = run(checkpoint(kind), ascent=ascent, trainable=trainable, steps=3)
    saving, _ = run(checkpoint(kind), ascent=ascent, trainable=trainable, steps=3, gradient_checkpointing=True)
    torch.testing.assert_close(parameters(saving), parameters(plain), rtol=1e-5, atol=1e-6)
    assert not torch.equal(parameters(plain), parameters(load_model(checkpoint(kind), 128)))


@pytest.mark.parametrize("saving", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_in_bfloat16_gradients_keep_their_direction_and_stay_float32(
    checkpoint: Kinds, kind: Kind, saving: bool
) -> None:
    model = load_model(checkpoint(kind), 128)
    pairs = encode_pairs(model.encoder, PREFERENCES)
    seen: set[torch.dtype] = set()
    head = model.network.get_submodule("classifier" if kind == "bert" else "score")
    head.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))

    def gradient() -> Tensor:
        backward_preference(model, pairs, 10**6)
        found = torch.cat([p.grad.flatten() for p in model.network.parameters() if p.grad is not None])
        model.network.zero_grad()
        return found

    exact = gradient()
    assert seen == {torch.float32}
    with model.learning_in_bfloat16(), model.recomputing() if saving else nullcontext():
        reduced = gradient()
        assert seen == {torch.float32, torch.bfloat16}
        assert model.scores([pairs[0].chosen]).dtype == torch.float32
        seen.clear()
        score_pairs(model, pairs)
        assert seen == {torch.float32}  # the evaluation uses the precision of serving
    assert reduced.dtype == torch.float32
    assert not torch.equal(reduced, exact)
    assert torch.cosine_similarity(reduced, exact, dim=0) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("ascent", get_args(Ascent))
@pytest.mark.parametrize("trainable", get_args(Trainable))
def test_every_variant_learns_in_bfloat16_and_leaves_float32_weights(
    checkpoint: Kinds, ascent: Ascent, trainable: Trainable
) -> None:
    chosen: dict[str, Any] = {
        "ascent": ascent,
        "trainable": trainable,
        "train_precision": "bfloat16",
        "ascent_rate": 1e-3,
    }
    model, report = run(checkpoint("llama"), pairs=4, steps=20, **chosen)
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert report.summary()["loss_last"] < report.summary()["loss_first"]


def test_the_callback_can_stop_a_run(checkpoint: Kinds) -> None:
    steps: list[int] = []

    def on_step(step: int, _: StepReport) -> None:
        steps.append(step)
        if step == 3:
            raise JobCancelledError("enough")

    with pytest.raises(JobCancelledError, match="enough"):
        run(checkpoint("bert"), on_step=on_step)
    assert steps == [1, 2, 3]


def test_a_non_finite_loss_ends_the_run(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    with torch.no_grad():
        model.network.get_parameter("classifier.weight").fill_(math.nan)
    options = TrainOptions.of(TrainerSettings(), SMALL)
    pairs, groups = encode_pairs(model.encoder, PREFERENCES), encode_groups(model.encoder, GROUPS)
    with pytest.raises(TrainingError, match=r"^step 1: scores that are not finite, in the groups g\d+, g\d+$"):
        train(model, pairs, groups, options, ignore_step)
    options = dataclasses.replace(options, ascent="none")
    with pytest.raises(TrainingError, match=r"^step 1: the preference loss is not a finite number"):
        train(model, pairs, groups, options, ignore_step)


def test_the_options_of_a_job_override_the_settings() -> None:
    options = TrainOptions.of(TrainerSettings(steps=9, seed=5), {"steps": 3, "ascent": "none"})
    assert (options.steps, options.seed, options.ascent) == (3, 5, "none")
    assert options.record() == dataclasses.asdict(options)


def test_held_out_scores_equal_those_of_each_pair_alone(checkpoint: Kinds) -> None:
    model = load_model(checkpoint("bert"), 128)
    pairs = encode_pairs(model.encoder, PREFERENCES)
    scores = score_pairs(model, pairs)
    with torch.inference_mode():
        assert scores.chosen == pytest.approx([model.scores([p.chosen]).item() for p in pairs], abs=1e-5)
        assert scores.rejected == pytest.approx([model.scores([p.rejected]).item() for p in pairs], abs=1e-5)


def test_the_summary_averages_the_first_and_the_last_tenth_of_the_steps() -> None:
    curve = [StepReport(loss=float(i), difference=None, grad_norm=1.0, learning_rate=1e-5) for i in range(30)]
    summary = TrainReport(30, "steps", 1.26, curve).summary()
    assert summary == {
        "steps": 30,
        "stopped_by": "steps",
        "seconds": 1.3,
        "loss_first": 1.0,
        "loss_last": 28.0,
        "difference_first": None,
        "difference_last": None,
    }


def test_a_meta_gradient_is_computed_every_third_update_and_reused_in_between(checkpoint: Kinds) -> None:
    model, report = run(checkpoint("bert"), ascent="joint", ascent_rate=2.0, meta_every=3)
    assert [step.difference is not None for step in report.curve] == [True, False, False, True, False]
    vanilla, _ = run(checkpoint("bert"), ascent="none")
    every, _ = run(checkpoint("bert"), ascent="joint", ascent_rate=2.0)
    assert not torch.equal(parameters(model), parameters(vanilla))
    assert not torch.equal(parameters(model), parameters(every))


def test_second_order_rejects_a_reused_meta_gradient(checkpoint: Kinds) -> None:
    with pytest.raises(ConfigurationError, match="meta_every must be 1"):
        run(checkpoint("bert"), ascent="second_order", meta_every=2)
