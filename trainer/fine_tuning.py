"""Fine-tune a model on preferences alone, the vanilla way: what makes a first version."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metarm.errors import ConfigurationError, JobCancelledError
from metarm.model.reward_model import RewardModel
from metarm.records import Preference, Trainable
from metarm.runtime.progress import Progress
from trainer.batches import encode_pairs
from trainer.figures import accuracy
from trainer.learning_curve import LearningCurve
from trainer.meta_update import StepReport
from trainer.preferences import PreferenceSet
from trainer.settings import LearningSettings
from trainer.tracking import Trackers
from trainer.training import TrainOptions, score_pairs, train

log = logging.getLogger(__name__)
RUN = "first-model"  # what trackers know the run by


@dataclass(frozen=True, slots=True)
class Course:
    """Which pairs a fine-tuning takes, and how far it goes. Held-out accuracy is measured before the first
    step, every `evaluate_every` steps and at the end; None: at the end alone."""

    pairs: Sequence[Preference]
    learning_rate: float
    steps: int
    evaluate_every: int | None


@dataclass(frozen=True, slots=True)
class FineTuned:
    """What a manifest says of a fine-tuning, and its curve."""

    manifest: dict[str, Any]
    curve: LearningCurve


def fine_tune(
    model: RewardModel,
    made_up: Sequence[str],
    preferences: PreferenceSet,
    course: Course,
    settings: LearningSettings,
    stop: threading.Event,
) -> FineTuned:
    """Bradley-Terry fine-tuning of `model` in place. Raises ConfigurationError for too few pairs, or where
    weights that were `made_up` would stay as they are, JobCancelledError once `stop` is set."""
    have, need = len(course.pairs), settings.min_preferences
    if have < need:
        raise ConfigurationError(f"{preferences.source} has {have} training pairs; {need} are needed")
    _refuse_untrained(model, made_up, settings.trainable)
    pairs = encode_pairs(model.encoder, course.pairs)
    held_out = encode_pairs(model.encoder, preferences.held_out)
    options = TrainOptions.of(
        settings,
        {
            "ascent": "none",
            "steps": course.steps,
            "learning_rate": course.learning_rate,
            "time_limit_s": math.inf,
        },
    )
    log.info("fine-tuning on %d preferences of %s", len(pairs), preferences.source)
    accuracies: list[tuple[int, float]] = []
    trackers = Trackers(settings.report_to, settings.data_dir)
    with trackers.run(RUN) as tracked, Progress("fine-tuning the first version", options.steps) as progress:
        tracked.begin({**options.record(), "pairs": len(pairs)})

        def evaluate(step: int) -> None:
            if held_out:
                accuracies.append((step, accuracy(score_pairs(model, held_out))))
                tracked.log("eval", {"held_out_accuracy": accuracies[-1][1]}, step)

        def on_step(step: int, report: StepReport) -> None:
            if stop.is_set():
                raise JobCancelledError("told to stop while the first version was being made")
            if course.evaluate_every and step % course.evaluate_every == 0 and step < options.steps:
                evaluate(step)
            progress.step(loss=report.loss, **{f"accuracy at {at}": value for at, value in accuracies[-1:]})
            tracked.log("train", asdict(report), step)

        if course.evaluate_every:
            evaluate(0)
        report = train(model, pairs, [], options, on_step)
        evaluate(options.steps)
    held_out_accuracy = accuracies[-1][1] if accuracies else None
    log.info("held-out accuracy %s on %d pairs", held_out_accuracy, len(held_out))
    manifest = {
        "settings": options.record() | {"time_limit_s": None},
        "preferences": preferences.record() | {"pairs": len(pairs)},
        "metrics": report.summary() | {"held_out_accuracy": held_out_accuracy},
    }
    return FineTuned(manifest, LearningCurve([step.loss for step in report.curve], accuracies))


def _refuse_untrained(model: RewardModel, made_up: Sequence[str], trainable: Trainable) -> None:
    trunk = [name for name in made_up if name.startswith(f"{model.network.base_model_prefix}.")]
    if trunk and trainable != "full":
        raise ConfigurationError(
            f"the checkpoint lacks {', '.join(trunk)}, which trainable={trainable} would leave at random: "
            "train this first version with trainable=full"
        )
