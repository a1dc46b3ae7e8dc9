"""Bodies of POST /score and POST /tokenize."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from service.http.schemas.fields import (
    LARGEST_INTEGER,
    Body,
    Flag,
    Name,
    VersionName,
    VersionOrLabel,
    few_unknown,
)


class ChatMessage(
    TypedDict
):  # a body may have tens of thousands: a model of each would cost several times more
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # pydantic's way to configure it

    role: Name
    content: str


def _few_unknown(message: Any) -> Any:
    return few_unknown(message, ("role", "content"))


class Group(Body):
    """One prompt and the policy's responses to it."""

    id: Name | None = Field(
        None, description="Returned unchanged; by default the group's index in the request."
    )
    prompt: (
        str
        | Annotated[
            list[Annotated[ChatMessage, BeforeValidator(_few_unknown)]], Field(min_length=1, fail_fast=True)
        ]
    )
    responses: list[str] = Field(min_length=1, fail_fast=True)


class Policy(Body):
    """The policy that wrote the responses, and its optimiser step."""

    name: Name
    step: int = Field(ge=0, le=LARGEST_INTEGER)


class ScoreRequest(Body):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "groups": [
                        {
                            "prompt": "What is 17 + 25?",
                            "responses": ["17 + 25 is 42.", "It is 41, I am absolutely certain!"],
                        }
                    ],
                    "policy": {"name": "actor", "step": 120},
                }
            ]
        },
    )

    groups: list[Group] = Field(min_length=1, fail_fast=True)
    version: VersionOrLabel | None = Field(
        None, description="Score with this version, or the version that this label names; otherwise 409."
    )
    min_version: VersionName | None = Field(
        None, description="Score with this version or a later one; otherwise 409."
    )
    raw: Flag = Field(False, description="Also answer the raw rewards, before calibration.")
    log: Flag = Field(True, description="Log the groups as samples of the policy.")
    policy: Policy | None = None
    request_id: Name | None = Field(None, description="A repeated request with the same id is logged once.")


class GroupScores(BaseModel):
    id: str
    version: str = Field(description="The version that scored this group: the request's, or the canary.")
    scores: list[float] = Field(description="One finite reward per response, in order, calibrated.")
    raw: list[float] | None = Field(None, description="Rewards before calibration, on request.")
    tokens: list[int] = Field(description="Tokens of prompt and response, after truncation.")
    truncated: list[bool] = Field(description="Whether tokens were dropped from the left to fit.")


class ScoreResponse(BaseModel):
    version: str = Field(description="The version that scored the request, apart from a canary's groups.")
    groups: list[GroupScores]


class TokenizeRequest(Body):
    groups: list[Group] = Field(min_length=1, fail_fast=True)
    version: VersionOrLabel | None = None
    min_version: VersionName | None = None


class GroupTokens(BaseModel):
    id: str
    input_ids: list[list[int]]
    truncated: list[bool]


class TokenizeResponse(BaseModel):
    version: str
    format: Literal["chat", "pair", "concat"]
    max_tokens: int
    template_date: str | None = Field(None, description="The date that the chat template is told.")
    split_special_tokens: bool = Field(description="Whether control tokens in texts are read as text.")
    groups: list[GroupTokens]
