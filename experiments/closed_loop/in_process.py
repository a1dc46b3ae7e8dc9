"""The reward models of a run in this process: the trainer's own parts, without server, Redis or jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.closed_loop.first_model import FirstModel, first_version
from experiments.closed_loop.plan import StudyPlan
from experiments.closed_loop.records import DIGITS, RetrainRecord
from experiments.closed_loop.reward_models import failed_retrain, in_requests, retrain_record
from metarm.errors import TrainingError
from metarm.model.reward_model import DEFAULT_BATCH_TOKENS, RewardModel, load_model
from metarm.records import SampleGroup
from metarm.store.calibration import IDENTITY, Calibration
from simulation.optimise import Groups
from trainer.batches import encode_groups, encode_pairs
from trainer.candidate import Yardstick, calibrated_like, described
from trainer.figures import PairScores, accuracy
from trainer.gate import Thresholds, judge
from trainer.meta_update import StepReport
from trainer.training import TrainOptions, score_pairs, train


class InProcess:
    """Versions in a store of their own, changed by the same steps as a job of the trainer."""

    def __init__(self, plan: StudyPlan, first: FirstModel, folder: Path) -> None:
        self._settings, preferences = first_version(plan, first, folder)
        self._curve_every = plan.curve_every
        self._store = self._settings.store
        self._samples: list[SampleGroup] = []
        self._preferences = preferences
        self.version, self.calibration = "", IDENTITY
        self._model = self._load_current()
        # every version has the first one's tokenizer
        self._train_pairs = encode_pairs(self._model.encoder, preferences.train)

    def score(self, groups: Groups) -> list[list[float]]:
        return list(in_requests(groups, self._request))

    def reward(self, groups: Groups, step: int) -> list[list[float]]:
        scores = self.score(groups)
        for group, row in zip(groups, scores, strict=True):
            texts = tuple(response.text for response in group)
            name = f"{step}-{len(self._samples)}"
            self._samples.append(
                SampleGroup(name, name, group[0].task.prompt, texts, tuple(row), self.version, 0.0)
            )
        return scores

    def retrain(self, options: Mapping[str, Any]) -> RetrainRecord:
        chosen = TrainOptions.of(self._settings, options)
        model = self._model
        yardstick = Yardstick.of(model.encoder, self._preferences.held_out, self._samples)
        before = yardstick.answers(model)
        curve = [(0, _accuracy(before.held_out))]

        def on_step(step: int, _report: StepReport) -> None:
            if step % self._curve_every == 0 and step < chosen.steps:
                curve.append((step, _accuracy(score_pairs(model, yardstick.held_out))))

        groups = encode_groups(model.encoder, self._samples) if chosen.ascent != "none" else []
        try:
            train(model, self._train_pairs, groups, chosen, on_step)
        except TrainingError as error:  # as on a server: nothing changes, and the samples stay for the next
            self._model = self._load_current()
            return failed_retrain(error.message)

        name, folder = self._store.stage()
        model.save(folder)
        saved = load_model(folder, self._settings.max_tokens)  # as a server judges: what would be served
        after = yardstick.answers(saved)
        verdict = judge(before, after, yardstick.lengths, Thresholds.of(self._settings))
        curve.append((chosen.steps, _accuracy(after.held_out)))
        manifest = {"parent": self.version, "settings": chosen.record(), "verdict": asdict(verdict)}
        if verdict.accepted:
            calibration = calibrated_like(after.held_out, before.held_out, self.calibration)
            of_model = described(saved, after.held_out, calibration, self._preferences.held_out)
            self._store.publish(name, {**manifest, **of_model})
        else:
            self._store.reject(name, manifest)
        self._samples = []
        self._model = self._load_current()
        return retrain_record(name, verdict.accepted, verdict.reasons, verdict.figures, curve)

    def _load_current(self) -> RewardModel:
        """The current version as loaded from disk, as a server has it."""
        self.version = str(self._store.current())
        self.calibration = Calibration.of(self._store.manifest(self.version))
        return load_model(self._store.path(self.version), self._settings.max_tokens)

    @torch.inference_mode()
    def _request(self, groups: Groups) -> list[list[float]]:
        """Calibrated scores, as one request to a server gets them: each sequence once, in the order asked."""
        texts = [(group[0].task.prompt, [response.text for response in group]) for group in groups]
        encoded = self._model.encoder.encode(texts)
        distinct = {sample.key: sample for group in encoded for sample in group}
        scores = self._model.scores(list(distinct.values()), DEFAULT_BATCH_TOKENS).tolist()
        by_key = dict(zip(distinct, self.calibration.scores(scores), strict=True))
        return [[by_key[sample.key] for sample in group] for group in encoded]


def _accuracy(scores: PairScores) -> float:
    return round(accuracy(scores), DIGITS)
