"""The reward models of a run in this process: the trainer's own parts, without server, Redis or jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.closed_loop.first_model import FirstModel, first_version
from experiments.closed_loop.plan import StudyPlan
from experiments.closed_loop.records import DIGITS, RetrainRecord
from experiments.closed_loop.reward_models import failed_retrain, in_requests, retrain_record
from metarm.errors import TrainingError
from metarm.figures import PairScores
from metarm.model.reward_model import DEFAULT_BATCH_TOKENS, RewardModel, load_version
from metarm.records import SampleGroup
from metarm.store.calibration import IDENTITY, Calibration
from simulation.optimise import Groups
from trainer.batches import encode_pairs
from trainer.gate import Thresholds
from trainer.meta_update import StepReport
from trainer.retrain import Parent, retrain
from trainer.staging import Staging
from trainer.training import TrainOptions, score_pairs


class InProcess:
    """Versions in a store of their own, changed by the trainer's own `retrain`."""

    def __init__(self, plan: StudyPlan, first: FirstModel, folder: Path) -> None:
        self._settings, preferences = first_version(plan, first, folder)
        self._curve_every = plan.curve_every
        self._store = self._settings.store
        self._samples: list[SampleGroup] = []
        self._preferences = preferences
        self.version, self.calibration = "", IDENTITY
        self._model = self._load_current()
        # every version has the first one's tokenizer
        self._held_out = encode_pairs(self._model.encoder, preferences.held_out)

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
        during: list[tuple[int, float]] = []

        def on_step(step: int, _report: StepReport) -> None:
            if step % self._curve_every == 0 and step < chosen.steps:
                during.append((step, _accuracy(score_pairs(self._model, self._held_out))))

        parent = Parent(self.version, self._model, self.calibration, None)
        given = parent, self._preferences, self._samples, chosen, Thresholds.of(self._settings)
        with Staging(self._store) as staged:
            try:
                candidate = retrain(*given, on_step, staged.save_and_load)
            except TrainingError as error:  # as on a server: nothing changes, and the samples stay for the next
                self._model = self._load_current()
                return failed_retrain(error.message)
            verdict = candidate.verdict
            if verdict.accepted:
                self._store.publish(candidate.name, candidate.manifest)
            else:
                self._store.reject(candidate.name, candidate.manifest)
        before, after = (_accuracy(r.held_out) for r in (candidate.parent_rewards, candidate.rewards))
        curve = [(0, before), *during, (chosen.steps, after)]
        self._samples = []
        self._model = self._load_current()
        return retrain_record(candidate.name, verdict.accepted, verdict.reasons, verdict.figures, curve)

    def _load_current(self) -> RewardModel:
        """The current version as loaded from disk, as a server has it."""
        self.version = str(self._store.current())
        manifest = self._store.manifest(self.version)
        self.calibration = Calibration.of(manifest)
        return load_version(self._store.path(self.version), manifest, self._settings.max_tokens)

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
    return round(scores.accuracy, DIGITS)
