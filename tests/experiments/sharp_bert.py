"""A tiny BERT with sharp attention, whose scores differ by much more than the rounding of float16."""

from __future__ import annotations

from pathlib import Path

import torch

from metarm.model.reward_model import RewardModel, load_model
from tests.tiny import make_checkpoint

FACTOR = 8.0


def sharp_bert(folder: Path) -> RewardModel:
    """The model; its checkpoint without the sharp attention is written to `folder`."""
    model = load_model(make_checkpoint(folder, "bert"), 128)
    names = [f"bert.encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key", "value")]
    with torch.no_grad():
        for name in (*names, "classifier.weight"):
            model.network.get_parameter(name).mul_(FACTOR)
    return model


def sharp_backbone(folder: Path) -> Path:
    """A checkpoint of the model without a head."""
    model = sharp_bert(folder)
    model.network.base_model.save_pretrained(folder)
    return folder
