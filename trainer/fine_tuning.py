"""Fine-tunes a model on preferences alone, for a first version."""

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
from trainer.learning_curve import LearningCurve
from trainer.meta_update import StepReport
from trainer.preferences import PreferenceSet
from trainer.settings import LearningSettings
from trainer.tracking import Trackers
from trainer.training import TrainOptions, score_pairs, train

log = logging.getLogger(__name__)
RUN = "first-model"  # its name in trackers


@dataclass(frozen=True, slots=True)
class TrainingSchedule:
    """The pairs and the length of a fine-tuning. Held-out accuracy is measured before the first step, every
    `evaluate_every` steps and at the end; None: only at the end."""

    pairs: Sequence[Preference]
    learning_rate: float
    steps: int
    evaluate_every: int | None


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The fields of a manifest that describe a fine-tuning, and its curve."""

    manifest: dict[str, Any]
    curve: LearningCurve


def fine_tune(
    model: RewardModel,
    missing_weights: Sequence[str],
    preferences: PreferenceSet,
    schedule: TrainingSchedule,
    settings: LearningSettings,
    stop: threading.Event,
) -> FineTuned:
    """Bradley-Terry fine-tuning of `model` in place. `missing_weights` are the names of its random weights.

    Raises ConfigurationError for too few pairs, or where random weights would not be trained;
    JobCancelledError once `stop` is set.
    """
    have, need = len(schedule.pairs), settings.min_preferences
    if have < need:
        raise ConfigurationError(f"{preferences.source} has {have} training pairs; {need} are needed")
    _refuse_untrained(model, missing_weights, settings.trainable)
    pairs = encode_pairs(model.encoder, schedule.pairs)
    held_out = encode_pairs(model.encoder, preferences.held_out)
    options = TrainOptions.of(
        settings,
        {
            "ascent": "none",
            "steps": schedule.steps,
            "learning_rate": schedule.learning_rate,
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
                accuracies.append((step, score_pairs(model, held_out).accuracy))
                tracked.log("eval", {"held_out_accuracy": accuracies[-1][1]}, step)

        def on_step(step: int, report: StepReport) -> None:
            if stop.is_set():
                raise JobCancelledError("stopped while the first version was being made")
            if schedule.evaluate_every and step % schedule.evaluate_every == 0 and step < options.steps:
                evaluate(step)
            progress.step(loss=report.loss, **{f"accuracy at {at}": value for at, value in accuracies[-1:]})
            tracked.log("train", asdict(report), step)

        if schedule.evaluate_every:
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


def _refuse_untrained(model: RewardModel, missing_weights: Sequence[str], trainable: Trainable) -> None:
    trunk = [name for name in missing_weights if name.startswith(f"{model.network.base_model_prefix}.")]
    if trunk and trainable != "full":
        raise ConfigurationError(
            f"the checkpoint lacks {', '.join(trunk)}, which trainable={trainable} would leave random: "
            "train this first version with trainable=full"
        )
