"""A retrain request accepts only options and values that the trainer's settings accept."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from service.http.schemas.retrain import RetrainRequest
from trainer.settings import TrainerSettings
from trainer.training import TrainOptions


def test_every_option_of_a_retrain_request_is_a_training_option() -> None:
    of_the_run = {field.name for field in fields(TrainOptions)}
    beside = {"force", "reuse"}  # they affect the publication, and which samples are read
    assert set(RetrainRequest.model_fields) - of_the_run == beside


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
def test_a_retrain_request_refuses_the_values_that_the_settings_refuse(option: str, value: Any) -> None:
    for kind in (RetrainRequest, TrainerSettings):
        with pytest.raises(ValidationError, match=option):
            kind(**{option: value})


def test_a_retrain_request_accepts_the_loss_options_and_the_trainable_option() -> None:
    given = {"label_smoothing": 0.1, "center_rewards_coefficient": 0.01, "trainable": "lora"}
    assert RetrainRequest(**given).model_dump(exclude_none=True) == given
