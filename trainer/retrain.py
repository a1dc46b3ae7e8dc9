"""One retrain: a parent, preferences and samples → a judged candidate. No jobs, no Redis, no store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metarm.model.reward_model import RewardModel
from metarm.records import SampleGroup
from metarm.runtime import tracing
from metarm.runtime.code_version import code_version
from metarm.store.calibration import Calibration
from trainer.batches import encode_groups, encode_pairs, warn_of_cut
from trainer.evaluation import EvaluationSet, calibrated_like, described
from trainer.gate import Rewards, Thresholds, Verdict, judge
from trainer.meta_update import StepReport
from trainer.preferences import PreferenceSet
from trainer.training import TrainOptions, TrainReport, train

OnStep = Callable[[int, StepReport], None]
SaveAndLoad = Callable[[RewardModel], tuple[str, RewardModel]]


@dataclass(frozen=True, slots=True)
class Parent:
    """The version that a retrain starts from; `source` is the checkpoint of its first ancestor."""

    version: str
    model: RewardModel
    calibration: Calibration
    source: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A retrained version, saved under `name`, and the gate's verdict on it.

    `manifest` is complete but for `job` and `samples`, which are None. It describes the model (calibration,
    probe, reference) only where the verdict publishes it.
    """

    name: str
    verdict: Verdict
    manifest: dict[str, Any]
    report: TrainReport
    rewards: Rewards
    parent_rewards: Rewards


def retrain(
    parent: Parent,
    preferences: PreferenceSet,
    samples: Sequence[SampleGroup],
    options: TrainOptions,
    thresholds: Thresholds,
    on_step: OnStep,
    save_and_load: SaveAndLoad,
    *,
    force: bool = False,
) -> Candidate:
    """Train `parent.model` in place, and judge the result against what it was before.

    `samples` are groups of two or more responses, the newest last. `on_step` may raise to stop the run.
    `save_and_load` names the trained model, saves it and loads it again: what is judged is what is served.

    Raises TrainingError if a loss, a reward or a score is not finite, ConfigurationError for options that do
    not fit the network, InvalidVersionError for a parent with non-finite scores.
    """
    model = parent.model
    evaluation = EvaluationSet.of(model.encoder, preferences.held_out, samples)
    before = evaluation.rewards(model)
    with tracing.span("train", groups=len(samples), steps=options.steps):
        pairs = encode_pairs(model.encoder, preferences.train)
        warn_of_cut("training pairs", pairs, model.encoder.max_tokens)
        groups = encode_groups(model.encoder, samples) if options.ascent != "none" else []
        report = train(model, pairs, groups, options, on_step)
    name, saved = save_and_load(model)
    with tracing.span("gate", version=name):
        after = evaluation.rewards(saved)
        made = {**options.record(), "steps": report.steps}
        verdict = judge(before, after, evaluation.lengths, thresholds, made).despite(force)
    manifest = {
        "parent": parent.version,
        "job": None,
        "method": "vanilla" if options.ascent == "none" else "metarm",
        "source": parent.source,
        "encoding": model.encoder.describe(),
        "settings": options.record(),
        "preferences": preferences.record(),
        "samples": None,
        "metrics": report.summary(),
        "verdict": asdict(verdict),
        "code_version": code_version(),
    }
    if verdict.publishes:
        calibration = calibrated_like(after.held_out, before.held_out, parent.calibration)
        manifest |= described(saved, after.held_out, calibration, preferences.held_out)
    return Candidate(name, verdict, manifest, report, after, before)
