"""Records that cross a process boundary, the codec of logged samples, and types that several processes use.

| record      | produced by                 | consumed by                            |
| ----------- | --------------------------- | -------------------------------------- |
| PolicyStamp | RL workers                  | service, trainer                       |
| SampleGroup | service/http/routes         | trainer, through the sample log        |
| Preference  | trainer/preferences.py      | trainer                                |
| ScoredGroup | metarm/answers.py           | RL workers                             |
| ScoreResult | metarm/score_parts.py       | RL workers                             |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import orjson

from metarm.errors import InvalidRequestError

CODEC_VERSION = 1
SAMPLE_BEGINS = f'{{"v":{CODEC_VERSION},'.encode()  # every logged sample of this codec

# the meta step of a run: docs/metarm.md
Ascent = Literal["none", "sgd", "adam", "shared_adam", "joint", "second_order", "conservative"]
# default η of each ascent, whose units differ (docs/decisions/0006)
ASCENT_RATES: Mapping[Ascent, float] = {
    "none": 0.0,
    "sgd": 0.1,
    "adam": 1e-3,
    "shared_adam": 1e-4,
    "joint": 2.0,
    "second_order": 0.1,
    "conservative": 0.3,
}
Trainable = Literal["full", "lora", "head"]  # the parameters that a run changes (trainer/trainable.py)
Precision = Literal["float32", "bfloat16"]  # of a run's computations
Tracker = Literal["tensorboard", "wandb", "mlflow"]  # where runs are reported
JobStatus = Literal["queued", "running", "published", "rejected", "failed", "cancelled"]
FINISHED: frozenset[JobStatus] = frozenset({"published", "rejected", "failed", "cancelled"})


class Message(TypedDict):
    """One turn of a conversation, in the common chat format."""

    role: str
    content: str


Prompt = str | list[Message]


@dataclass(frozen=True, slots=True)
class PolicyStamp:
    """The policy that wrote the responses, and its optimiser step then."""

    name: str
    step: int


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """One prompt, the policy's k responses, and their k scores by the reward model `version`.

    `scored_at` is Unix time in seconds.
    """

    id: str
    request_id: str
    prompt: Prompt
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    version: str
    scored_at: float
    policy: PolicyStamp | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """A labelled pair: `chosen` was preferred to `rejected` as a response to `prompt`.

    `margin` is the strength of the preference (TRL's column of that name), 0.0 where unknown.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """The scores of one group's k responses, in request order, by the reward model `version`.

    `tokens` and `truncated` describe the k encoded sequences. `raw` holds the rewards before calibration,
    if they were requested.
    """

    id: str
    scores: tuple[float, ...]
    tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    version: str
    raw: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The groups of one request, scored by the reward model `version`; a group that a canary scored names
    the canary's version."""

    version: str
    groups: tuple[ScoredGroup, ...]


def encode_sample(group: SampleGroup) -> bytes:
    """JSON that begins with the codec's version, so that a newer reader recognises an older entry."""
    return SAMPLE_BEGINS + orjson.dumps(group).removeprefix(b"{")


def decode_sample(data: bytes) -> SampleGroup:
    """The inverse of `encode_sample`. Raises InvalidRequestError for unreadable data."""
    try:
        fields: dict[str, Any] = orjson.loads(data)
        codec = fields.pop("v")
        if codec != CODEC_VERSION:
            raise InvalidRequestError(f"sample codec {codec} is unknown (known: {CODEC_VERSION})")
        policy = fields.pop("policy")
        return SampleGroup(
            **{**fields, "responses": tuple(fields["responses"]), "scores": tuple(fields["scores"])},
            policy=PolicyStamp(**policy) if policy else None,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequestError(f"unreadable sample entry: {error}") from error
