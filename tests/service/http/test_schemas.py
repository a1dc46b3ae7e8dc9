"""A retrain request asks for nothing that the trainer would not take from its settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from service.http.schemas.retrain import RetrainRequest
from trainer.settings import TrainerSettings
from trainer.training import TrainOptions


def test_every_option_of_a_retrain_is_an_option_of_a_run() -> None:
    of_the_run = {field.name for field in fields(TrainOptions)}
    assert set(RetrainRequest.model_fields) - of_the_run == {"force"}  # what becomes of its candidate


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("label_smoothing", 0.5),
        ("label_smoothing", -0.1),
        ("center_rewards_coefficient", -1.0),
        ("trainable", "trunk"),
        ("ascent", "down"),
        ("learning_rate", 0.0),
    ],
)
def test_what_the_settings_refuse_a_request_refuses(option: str, value: Any) -> None:
    for kind in (RetrainRequest, TrainerSettings):
        with pytest.raises(ValidationError, match=option):
            kind(**{option: value})


def test_the_options_of_the_loss_and_of_what_is_trained_are_taken() -> None:
    given = {"label_smoothing": 0.1, "center_rewards_coefficient": 0.01, "trainable": "lora"}
    assert RetrainRequest(**given).model_dump(exclude_none=True) == given
