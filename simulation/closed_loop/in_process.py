"""The reward models of a run in this process: the trainer's own parts, without server, Redis or jobs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from metarm.model import DEFAULT_BATCH_TOKENS, RewardModel, load_model
from metarm.records import SampleGroup
from simulation.closed_loop.first_model import FirstModel, trainer_settings
from simulation.closed_loop.plan import StudyPlan
from simulation.closed_loop.records import RetrainRecord
from simulation.closed_loop.reward_models import in_requests
from simulation.optimise import Groups
from trainer.batches import encode_groups, encode_pairs
from trainer.bootstrap import ensure_first_version
from trainer.gate import accuracy, judge
from trainer.meta_update import StepReport
from trainer.preferences import load_preferences
from trainer.training import TrainOptions, score_pairs, train


class InProcess:
    """Versions in a store of their own, changed by the same steps as a job of the trainer."""

    def __init__(self, plan: StudyPlan, first: FirstModel, folder: Path) -> None:
        self._settings = trainer_settings(
            plan,
            {"data_dir": folder, "model": str(first.checkpoint), "preferences": first.preferences},
        )
        self._curve_every = plan.curve_every
        self._store = self._settings.store
        self._store.prepare()
        self._preferences = load_preferences(
            first.preferences, self._settings.held_out_share, self._settings.max_held_out
        )
        ensure_first_version(self._store, self._settings, self._preferences, threading.Event())
        self._samples: list[SampleGroup] = []
        self.version = ""
        self._model = self._load_current()

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
        samples, self._samples = self._samples, []
        model = self._model
        held_out = encode_pairs(model.encoder, self._preferences.held_out)
        parent_scores = score_pairs(model, held_out)
        curve = [(0, round(accuracy(parent_scores), 5))]

        def on_step(step: int, _report: StepReport) -> None:
            if step % self._curve_every == 0 or step == chosen.steps:
                curve.append((step, round(accuracy(score_pairs(model, held_out)), 5)))

        groups = encode_groups(model.encoder, samples) if chosen.ascent != "none" else []
        pairs = encode_pairs(model.encoder, self._preferences.train)
        train(model, pairs, groups, chosen, on_step)

        name, folder = self._store.stage()
        model.save(folder)
        saved = load_model(folder, self._settings.max_tokens)
        verdict = judge(parent_scores, score_pairs(saved, held_out), self._settings.gate_tolerance)
        manifest = {"parent": self.version, "settings": chosen.record(), "verdict": asdict(verdict)}
        if verdict.accepted:
            self._store.publish(name, manifest)
        else:
            self._store.reject(name, manifest)
        self._model = self._load_current()
        return retrain_record(name, verdict.accepted, verdict.reasons, verdict.figures, curve)

    def _load_current(self) -> RewardModel:
        """The current version as loaded from disk, as a server has it."""
        self.version = str(self._store.current())
        return load_model(self._store.path(self.version), self._settings.max_tokens)

    @torch.inference_mode()
    def _request(self, groups: Groups) -> list[list[float]]:
        """Scores as one request to a server gets them: each sequence once, in the order asked for."""
        texts = [(group[0].task.prompt, [response.text for response in group]) for group in groups]
        encoded = self._model.encoder.encode(texts)
        distinct = {sample.key: sample for group in encoded for sample in group}
        scores = self._model.scores(list(distinct.values()), DEFAULT_BATCH_TOKENS).tolist()
        by_key = dict(zip(distinct, scores, strict=True))
        return [[by_key[sample.key] for sample in group] for group in encoded]


def retrain_record(
    candidate: str,
    accepted: bool,
    reasons: list[str],
    figures: Mapping[str, float | None],
    curve: list[tuple[int, float]],
) -> RetrainRecord:
    """The record of a retrain from the gate's verdict; what it could not measure is NaN."""
    names = ("parent_accuracy", "held_out_accuracy", "parent_score_std", "score_std")
    measured = [figures.get(name) for name in names]
    return RetrainRecord(
        candidate,
        accepted,
        list(reasons),
        *(float("nan") if value is None else round(value, 5) for value in measured),
        curve,
    )
