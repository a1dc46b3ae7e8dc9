"""Validation errors name the fields as the request does, once each, and only the first few."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from service.http.invalid_fields import invalid_fields
from service.http.schemas.leases import LeaseRequest
from service.http.schemas.retrain import RetrainRequest
from service.http.schemas.score import ScoreRequest

GROUP = {"prompt": "x", "responses": ["y"]}


def found(body: Any, schema: type[BaseModel] = ScoreRequest) -> dict[str, str]:
    """Messages by field."""
    with pytest.raises(ValidationError) as invalid:
        schema.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in invalid.value.errors()]
    fields = invalid_fields(RequestValidationError(errors, body=body))
    assert len({field["field"] for field in fields}) == len(fields)
    return {field["field"]: field["message"] for field in fields}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"groups": "Field required"}),
        ([], {"body": "Input should be an object"}),
        ({"groups": [0, 0]}, {"groups.0": "Input should be an object"}),
        ({"groups": [{}]}, {"groups.0.prompt": "Field required", "groups.0.responses": "Field required"}),
        (
            {"groups": [GROUP, {**GROUP, "prompt": 5}]},
            {"groups.1.prompt": "Input should be a valid string or a valid list"},
        ),
        (
            {"groups": [{**GROUP, "prompt": [{"role": "user"}]}]},
            {"groups.0.prompt.0.content": "Field required"},
        ),
        (
            {"groups": [{**GROUP, "prompt": []}]},
            {"groups.0.prompt": "List should have at least 1 item after validation, not 0"},
        ),
        (
            {"groups": [{**GROUP, "responses": ["y", 1, 2]}]},
            {"groups.0.responses.1": "Input should be a valid string"},
        ),
        (
            {"groups": [GROUP], "version": "v12"},
            {"version": "v12 is not a version name, such as v000003"},
        ),
        (
            {"groups": [GROUP], "policy": {"name": "a", "step": 1e30}},
            {"policy.step": "Input should be an integer of at most 64 bits"},
        ),
        ({"groups": [GROUP], "verison": 1}, {"verison": "Extra inputs are not permitted"}),
    ],
)
def test_fields_are_named_as_in_the_request(body: Any, expected: dict[str, str]) -> None:
    assert found(body) == expected


def test_a_rule_of_the_whole_body_is_reported_for_the_body() -> None:
    both = {"ttl_s": 5, "version": "v000001", "label": "stable"}
    said = "name a version or a label, not both; neither: the current version"
    assert found(both, LeaseRequest) == {"body": said}


def test_only_the_first_few_errors_are_reported_and_long_names_are_cut() -> None:
    unknown = {f"{number}{'k' * 10_000}": 0 for number in range(1000)}
    fields = found({**unknown, "steps": 0}, RetrainRequest)
    assert len(fields) == 5
    assert fields["steps"] == "Input should be greater than or equal to 1"
    assert max(map(len, fields)) == 100


def test_validation_of_a_list_ends_at_its_first_error() -> None:
    with pytest.raises(ValidationError) as invalid:
        ScoreRequest.model_validate({"groups": [0] * 10_000})
    assert invalid.value.error_count() == 1
