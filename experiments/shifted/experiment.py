"""One seed: version 1, then every variant from it, by the trainer's own loop; the score differences of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.shifted.comparison import Gaps
from experiments.shifted.data import GROUP_SIZE
from experiments.shifted.evaluation import Evaluation
from experiments.shifted.folded import FoldedModel, Weights, average
from experiments.shifted.variants import (
    AVERAGE,
    AVERAGED,
    FIRST,
    VANILLA,
    Variant,
    across_prompts,
    trained,
)
from trainer.batches import EncodedGroup, EncodedPair
from trainer.meta_update import StepReport
from trainer.settings import TrainerSettings
from trainer.training import TrainOptions, train

BATCH_SIZE = 32
FIRST_STEPS, FIRST_LEARNING_RATE = 100, 1e-4
STEPS, LEARNING_RATE = 60, 5e-5
NO_LIMIT = 10**9  # tokens, seconds

Row = tuple[str | None, str]  # meta-set (None where none is used) and variant


@dataclass(frozen=True, slots=True)
class Material:
    """The training and evaluation data of every seed."""

    pairs: Sequence[EncodedPair]
    meta: Mapping[str, Sequence[EncodedGroup]]
    evaluation: Evaluation


def steps_a_seed(names: Sequence[str], meta_sets: int) -> int:
    return FIRST_STEPS + STEPS + STEPS * len(trained(names)) * meta_sets


def run_seed(
    model: FoldedModel, seed: int, material: Material, names: Sequence[str], on_step: Callable[[], object]
) -> dict[Row, Gaps]:
    """Score differences of FIRST, VANILLA, and of the rows `names` of each meta-set. `model` has a new head."""
    evaluation = material.evaluation
    _train(model, material, [], first_options(seed), on_step)
    start = model.weights()
    rows: dict[Row, Gaps] = {(None, FIRST): evaluation.gaps(model)}

    def continued(variant: Variant, groups: Sequence[EncodedGroup]) -> Weights:
        model.take(start)
        _train(model, material, groups, next_options(variant, seed), on_step)
        return model.weights()

    vanilla = continued(Variant(VANILLA, VANILLA, 0.0), [])
    rows[None, VANILLA] = evaluation.gaps(model)
    for meta, groups in material.meta.items():
        for variant in trained(names):
            found = continued(variant, across_prompts(groups) if variant.across_prompts else groups)
            if variant.name in names:
                rows[meta, variant.name] = evaluation.gaps(model)
            if variant.name == AVERAGED and AVERAGE in names:
                model.take(average(vanilla, found))
                rows[meta, AVERAGE] = evaluation.gaps(model)
    return rows


def first_options(seed: int) -> TrainOptions:
    """Version 1: vanilla, from a new head."""
    return _options(Variant(FIRST, VANILLA, 0.0), FIRST_STEPS, FIRST_LEARNING_RATE, 2 * seed)


def next_options(variant: Variant, seed: int) -> TrainOptions:
    """A variant's run from version 1; every variant of a seed draws the same pairs, anew after version 1."""
    return _options(variant, STEPS, LEARNING_RATE, 2 * seed + 1)


def _options(variant: Variant, steps: int, learning_rate: float, seed: int) -> TrainOptions:
    """The trainer's defaults, regardless of the environment, except the options compared here."""
    changes: dict[str, Any] = {
        "ascent": variant.ascent,
        "ascent_rate": variant.rate,
        "meta_batch_size": variant.meta_batch_size,
        "meta_every": variant.meta_every,
        "responses_per_prompt": GROUP_SIZE,
        "steps": steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": learning_rate,
        "micro_batch_tokens": NO_LIMIT,
        "time_limit_s": NO_LIMIT,
        "seed": seed,
    }
    return TrainOptions.of(TrainerSettings.model_construct(), changes)


def _train(
    model: FoldedModel,
    material: Material,
    groups: Sequence[EncodedGroup],
    chosen: TrainOptions,
    on_step: Callable[[], object],
) -> None:
    def stepped(step: int, report: StepReport) -> None:
        del step, report
        on_step()

    train(model, material.pairs, groups, chosen, stepped)
