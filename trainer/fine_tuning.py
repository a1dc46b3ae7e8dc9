"""Fine-tunes a model on preferences alone, for a first version."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from metarm.errors import ConfigurationError, JobCancelledError
from metarm.figures import share_interval
from metarm.model.reward_model import RewardModel
from metarm.records import Preference, Trainable
from metarm.runtime.progress import Progress
from trainer.batches import encode_pairs, warn_of_cut
from trainer.learning_curve import LearningCurve
from trainer.meta_update import StepReport
from trainer.preferences import PreferenceSet, held_out_precision, longer_wins
from trainer.settings import LearningSettings
from trainer.tracking import Trackers
from trainer.training import TrainOptions, score_pairs, train

log = logging.getLogger(__name__)
RUN = "first-model"  # its name in trackers


@dataclass(frozen=True, slots=True)
class TrainingSchedule:
    """The pairs and the length of a fine-tuning. Held-out accuracy is measured before the first step, every
    `evaluate_every` steps and at the end; None: only at the end. The weights of the best step stay."""

    pairs: Sequence[Preference]
    learning_rate: float
    steps: int
    evaluate_every: int | None


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The fields of a manifest that describe a fine-tuning, its curve, and what it reached, for people."""

    manifest: dict[str, Any]
    curve: LearningCurve
    summary: str


class _BestStep:
    """The trained weights at the step with the highest held-out accuracy, the earliest of equals."""

    def __init__(self, model: RewardModel, steps: int) -> None:
        self._network = model.network
        self._steps = steps
        self._kept: list[Tensor] | None = None  # None: as they are
        self.step = steps
        self.accuracy: float | None = None

    def offer(self, step: int, accuracy: float) -> None:
        """Called while the trained parameters, and no others, require gradients."""
        if self.accuracy is not None and accuracy <= self.accuracy:
            return
        last = step == self._steps
        self.step, self.accuracy = step, accuracy
        self._kept = None if last else [weight.detach().clone() for weight in self._trained()]

    @torch.no_grad()
    def restore(self) -> None:
        for weight, kept in zip(self._trained(), self._kept or (), strict=False):
            weight.copy_(kept)

    def _trained(self) -> Iterator[Parameter]:
        return (weight for weight in self._network.parameters() if weight.requires_grad)


def fine_tune(
    model: RewardModel,
    missing_weights: Sequence[str],
    preferences: PreferenceSet,
    schedule: TrainingSchedule,
    settings: LearningSettings,
    stop: threading.Event,
) -> FineTuned:
    """Bradley-Terry fine-tuning of `model` in place, to the weights of its best step. `missing_weights` are the
    names of its random weights.

    Raises ConfigurationError for too few pairs, or where random weights would not be trained;
    JobCancelledError once `stop` is set.
    """
    have, need = len(schedule.pairs), settings.min_preferences
    if have < need:
        raise ConfigurationError(f"{preferences.source} has {have} training pairs; {need} are needed")
    _refuse_untrained(model, missing_weights, settings.trainable)
    pairs = encode_pairs(model.encoder, schedule.pairs)
    held_out = encode_pairs(model.encoder, preferences.held_out)
    for what, encoded in (("training", pairs), ("held-out", held_out)):
        warn_of_cut(f"{what} pairs", encoded, model.encoder.max_tokens)
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
    best = _BestStep(model, options.steps)
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
            last = step == options.steps
            if held_out and (last or (schedule.evaluate_every and step % schedule.evaluate_every == 0)):
                evaluate(step)
                best.offer(*accuracies[-1])
            if last:
                best.restore()
            progress.step(
                loss=report.loss, **{f"accuracy at step {at}": value for at, value in accuracies[-1:]}
            )
            tracked.log("train", asdict(report), step)

        if schedule.evaluate_every:
            evaluate(0)
        report = train(model, pairs, [], options, on_step)
    before = next((accuracy for step, accuracy in accuracies if step == 0), None)
    found = _measured(best, before, preferences)
    manifest = {
        "settings": options.record() | {"time_limit_s": None},
        "preferences": preferences.record() | {"pairs": len(pairs)},
        "metrics": report.summary() | found,
    }
    curve = LearningCurve([step.loss for step in report.curve], accuracies)
    return FineTuned(manifest, curve, _summary(found, len(held_out)))


def _measured(best: _BestStep, before: float | None, preferences: PreferenceSet) -> dict[str, Any]:
    """Fields of the manifest's metrics: what the best step reaches, and what it is compared with."""
    if best.accuracy is None:
        return {"held_out_accuracy": None}
    longer = longer_wins(preferences.held_out)
    low, high = share_interval(best.accuracy, len(preferences.held_out))
    return {
        "held_out_accuracy": best.accuracy,
        "held_out_interval": [low, high],
        "best_step": best.step,
        "before_training": before,
        "longer_wins": longer,
    }


def _summary(found: Mapping[str, Any], pairs: int) -> str:
    accuracy, before = found["held_out_accuracy"], found.get("before_training")
    if accuracy is None:
        return held_out_precision(0)
    low, high = found["held_out_interval"]
    lines = [
        f"step {found['best_step']} is the best: held-out accuracy {accuracy:.3f}, 95% interval {low:.3f} to "
        f"{high:.3f} on {pairs} pairs",
        f"compare: {found['longer_wins']:.3f} if the longer response always wins"
        + (f", {before:.3f} before training" if before is not None else ""),
    ]
    if before is not None and before >= accuracy:
        lines.append("no step is better than the checkpoint was before: consider to serve that as it is")
    return "\n".join(lines)


def _refuse_untrained(model: RewardModel, missing_weights: Sequence[str], trainable: Trainable) -> None:
    trunk = [name for name in missing_weights if name.startswith(f"{model.network.base_model_prefix}.")]
    if trunk and trainable != "full":
        raise ConfigurationError(
            f"the checkpoint lacks {', '.join(trunk)}, which trainable={trainable} would leave random: "
            "train this first version with trainable=full"
        )
