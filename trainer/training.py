"""The training loop of a MetaRM retrain, a vanilla retrain and a first version."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch.nn import Parameter

from metarm.errors import ConfigurationError, TrainingError
from metarm.figures import PairScores
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel
from metarm.records import ASCENT_RATES, Ascent, Precision, Trainable
from trainer.batches import (
    EncodedGroup,
    EncodedPair,
    GroupContrast,
    GroupDifference,
    MetaObjective,
    backward_preference,
    draw,
)
from trainer.meta_update import BackwardLoss, MetaUpdate, StepReport
from trainer.settings import LearningSettings, TrainerSettings
from trainer.trainable import trainable

ADAM_BETAS = (0.9, 0.95)  # the paper's, as ADAM_EPS
ADAM_EPS = 1e-6
SUPPORT_PAIRS = 128  # of D, for the standard deviation of its rewards


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The options of one run, under the names of the settings and of POST /retrain (docs/metarm.md)."""

    ascent: Ascent
    steps: int
    batch_size: int
    meta_batch_size: int
    meta_every: int
    responses_per_prompt: int
    learning_rate: float
    ascent_rate: float
    weight_decay: float
    max_grad_norm: float
    warmup_share: float
    label_smoothing: float
    center_rewards_coefficient: float
    trainable: Trainable
    lora_rank: int
    lora_alpha: int
    gradient_checkpointing: bool
    train_precision: Precision
    micro_batch_tokens: int
    time_limit_s: float
    seed: int

    @classmethod
    def of(cls, settings: LearningSettings, changes: Mapping[str, Any]) -> TrainOptions:
        """The settings, overridden by `changes`, a job's options. Options that these settings lack, and whose
        runs do not use, have the defaults of the trainer's settings."""
        defaults = {field.name: TrainerSettings.model_fields[field.name].default for field in fields(cls)}
        set_ = {name: getattr(settings, name, default) for name, default in defaults.items()}
        chosen = set_ | dict(changes)
        another = chosen["ascent"] != set_["ascent"] and "ascent_rate" not in changes
        if chosen["ascent_rate"] is None or another:  # the unit of a rate depends on the ascent
            chosen["ascent_rate"] = ASCENT_RATES[chosen["ascent"]]
        return cls(**chosen)

    def record(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """How a run went; `curve` has a report for each step."""

    steps: int
    stopped_by: Literal["steps", "time_limit"]
    seconds: float
    curve: list[StepReport]

    def summary(self) -> dict[str, Any]:
        """For a manifest. Losses are means over the first and the last tenth of the run."""
        tenth = max(1, len(self.curve) // 10)
        first, last = self.curve[:tenth], self.curve[-tenth:]
        return {
            "steps": self.steps,
            "stopped_by": self.stopped_by,
            "seconds": round(self.seconds, 1),
            "loss_first": _mean([step.loss for step in first]),
            "loss_last": _mean([step.loss for step in last]),
            "difference_first": _mean([step.difference for step in first]),
            "difference_last": _mean([step.difference for step in last]),
        }


def train(
    model: RewardModel,
    pairs: Sequence[EncodedPair],
    groups: Sequence[EncodedGroup],
    options: TrainOptions,
    on_step: Callable[[int, StepReport], None],
) -> TrainReport:
    """Change `model` in place by at most `options.steps` updates. `on_step` may raise to stop the run.

    Raises TrainingError if a loss is not finite; ConfigurationError where the network lacks the parts that
    `options.trainable` names, or for `second_order` with `meta_every` above 1.
    """
    if options.ascent == "second_order" and options.meta_every > 1:
        raise ConfigurationError("second_order needs a meta gradient in every update: meta_every must be 1")
    recomputing = model.recomputing() if options.gradient_checkpointing else nullcontext()
    chosen = trainable(
        model.network,
        options.trainable,
        rank=options.lora_rank,
        alpha=options.lora_alpha,
        seed=options.seed,
    )
    precision = model.learning_in_bfloat16() if options.train_precision == "bfloat16" else nullcontext()
    with recomputing, precision, chosen as parameters:
        return _run(model, parameters, pairs, groups, options, on_step)


def _run(
    model: RewardModel,
    parameters: Sequence[Parameter],
    pairs: Sequence[EncodedPair],
    groups: Sequence[EncodedGroup],
    options: TrainOptions,
    on_step: Callable[[int, StepReport], None],
) -> TrainReport:
    started = time.monotonic()
    optimizer = torch.optim.AdamW(
        parameters,
        lr=options.learning_rate,
        betas=ADAM_BETAS,
        eps=ADAM_EPS,
        weight_decay=options.weight_decay,
        fused=True,
    )
    update = MetaUpdate(
        parameters,
        optimizer,
        options.ascent,
        options.ascent_rate,
        max_grad_norm=options.max_grad_norm,
        reuse=options.meta_every > 1,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, options))
    # separate random streams: a run sees the same pairs in the same order with and without groups
    pair_batches = draw(pairs, options.batch_size, random.Random(f"pairs {options.seed}"))
    group_batches = _group_batches(groups, options, random.Random(f"groups {options.seed}"))
    support = _Support.of(model, pairs, options) if options.ascent == "conservative" else None
    curve: list[StepReport] = []
    for step in range(1, options.steps + 1):
        batch = next(pair_batches)
        meta = next(group_batches) if (step - 1) % options.meta_every == 0 else None
        try:
            report = update.step(
                _preference(model, batch, options),
                _objective(model, meta, support, options),
            )
        except TrainingError as error:
            raise TrainingError(f"step {step}: {error.message}") from error
        schedule.step()
        curve.append(report)
        on_step(step, report)
        if time.monotonic() - started > options.time_limit_s and step < options.steps:
            return TrainReport(step, "time_limit", time.monotonic() - started, curve)
    return TrainReport(options.steps, "steps", time.monotonic() - started, curve)


@torch.inference_mode()
def score_pairs(model: RewardModel, pairs: Sequence[EncodedPair]) -> PairScores:
    """The raw rewards of preference pairs. A pair whose sides are the same tokens ties, whatever the batch."""
    scores = model.scores([s for pair in pairs for s in (pair.chosen, pair.rejected)]).tolist()
    sides = zip(pairs, scores[0::2], scores[1::2], strict=True)
    rejected = [first if pair.chosen == pair.rejected else second for pair, first, second in sides]
    return PairScores(scores[0::2], rejected)


def _preference(model: RewardModel, batch: list[EncodedPair], options: TrainOptions) -> BackwardLoss:
    return partial(
        backward_preference,
        model,
        batch,
        options.micro_batch_tokens,
        label_smoothing=options.label_smoothing,
        center_rewards_coefficient=options.center_rewards_coefficient,
    )


def _objective(
    model: RewardModel, meta: list[EncodedGroup] | None, support: _Support | None, options: TrainOptions
) -> MetaObjective | None:
    if meta is None:
        return None
    k, micro_tokens = options.responses_per_prompt, options.micro_batch_tokens
    if support is not None:
        return GroupContrast(model, meta, support.references, support.margin, k, micro_tokens)
    return GroupDifference(model, meta, k, micro_tokens)


@dataclass(frozen=True, slots=True)
class _Support:
    """What `conservative` compares samples with: an endless sequence of chosen responses of D, and the standard
    deviation of rewards on D at the beginning of the run."""

    references: Iterator[Encoded]
    margin: float

    @classmethod
    def of(cls, model: RewardModel, pairs: Sequence[EncodedPair], options: TrainOptions) -> _Support:
        rng = random.Random(f"references {options.seed}")
        measured = rng.sample(pairs, min(SUPPORT_PAIRS, len(pairs)))
        margin = torch.tensor(score_pairs(model, measured).all).std().item()
        return cls((pair.chosen for (pair,) in draw(pairs, 1, rng)), margin)


def _group_batches(
    groups: Sequence[EncodedGroup], options: TrainOptions, rng: random.Random
) -> Iterator[list[EncodedGroup] | None]:
    if options.ascent != "none":
        yield from draw(groups, options.meta_batch_size, rng)
    while True:
        yield None


def _rate_factor(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then linear decay to a tenth."""
    warm = max(1, round(options.steps * options.warmup_share))
    if step < warm:
        return (step + 1) / warm
    return 1.0 - 0.9 * (step - warm) / max(1, options.steps - warm)


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
