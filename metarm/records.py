"""What the processes hand to one another: frozen records and their versioned codec. No torch.

| record        | produced by                    | consumed by                     |
| ------------- | ------------------------------ | ------------------------------- |
| SampleGroup   | service.samples.writer          | trainer.loop, through the log   |
| Preference    | trainer.preferences (files)    | trainer.batches                 |
| ScoredGroup   | service                        | metarm.client, RL workers       |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

import orjson

from metarm.errors import InvalidRequestError

CODEC_VERSION = 1

# docs/metarm.md says what each does
Ascent = Literal["none", "sgd", "adam", "shared_adam", "joint", "second_order", "conservative"]
# η where none is asked for: its unit is another one in each (docs/decisions/0006)
ASCENT_RATES: Mapping[Ascent, float] = {
    "none": 0.0,
    "sgd": 0.1,
    "adam": 1e-3,
    "shared_adam": 1e-4,
    "joint": 2.0,
    "second_order": 0.1,
    "conservative": 0.3,
}
Trainable = Literal["full", "lora", "head"]  # which parameters a run changes (trainer/trainable.py)
Precision = Literal["float32", "bfloat16"]  # that a run computes in
Tracker = Literal["tensorboard", "wandb", "mlflow"]  # that runs are reported to
JobStatus = Literal["queued", "running", "published", "rejected", "failed", "cancelled"]
FINISHED: frozenset[JobStatus] = frozenset({"published", "rejected", "failed", "cancelled"})


class Message(TypedDict):
    """One turn of a conversation, in the chat format every framework uses."""

    role: str
    content: str


Prompt = str | list[Message]


@dataclass(frozen=True, slots=True)
class PolicyStamp:
    """Which policy, at which optimiser step, wrote the responses."""

    name: str
    step: int


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """One prompt, the policy's k responses, and what reward model `version` gave them.

    `responses` and `scores` have the same length k; `scored_at` is Unix time in seconds.
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
    """A labelled pair: `chosen` was preferred to `rejected` as an answer to `prompt`.

    `margin` is the strength of the preference (TRL's column), 0.0 where unknown.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """Scores of one group's k responses, in request order, by the one reward model `version`. `raw`: the
    model's rewards before calibration, where they were asked for."""

    id: str
    scores: tuple[float, ...]
    tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    version: str
    raw: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """All groups of one request, scored by the reward model `version`; those of a canary's prompts by the
    version that they name."""

    version: str
    groups: tuple[ScoredGroup, ...]


def encode_sample(group: SampleGroup) -> bytes:
    """JSON with a leading codec number, so that a newer reader knows an older entry."""
    return orjson.dumps({"v": CODEC_VERSION, **asdict(group)})


def decode_sample(data: bytes) -> SampleGroup:
    """The inverse of `encode_sample`. Raises InvalidRequestError for anything it cannot read."""
    try:
        fields: dict[str, Any] = orjson.loads(data)
        codec = fields.pop("v")
        if codec != CODEC_VERSION:
            raise InvalidRequestError(f"sample codec {codec} is not known here (known: {CODEC_VERSION})")
        policy = fields.pop("policy")
        return SampleGroup(
            **{**fields, "responses": tuple(fields["responses"]), "scores": tuple(fields["scores"])},
            policy=PolicyStamp(**policy) if policy else None,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequestError(f"unreadable sample entry: {error}") from error
