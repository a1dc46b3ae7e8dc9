"""HTTP bodies. Unknown fields are refused: a misspelt option must not be ignored in silence."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from metarm.records import Ascent, Precision, Trainable
from metarm.versions import NAME as VERSION


def _encodable(text: str) -> str:
    """JSON escapes can spell half a character, which no tokenizer and no log can take."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text has a lone surrogate: it is not valid Unicode") from error
    return text


def _no_half_version(name: str) -> str:
    """v12 is a version misspelt, not a label."""
    if re.fullmatch(r"v\d+", name) and not VERSION.fullmatch(name):
        raise ValueError(f"{name} is not a version name, such as v000003")
    return name


def _no_version(name: str) -> str:
    if re.fullmatch(r"v\d+", name) or name == "current":
        raise ValueError(f"a label cannot be called {name}")
    return name


VersionName = Annotated[str, StringConstraints(pattern=r"^v\d{6,}$")]
VersionOrLabel = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), AfterValidator(_no_half_version)
]
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), AfterValidator(_no_version)]
LARGEST_INTEGER = 2**63 - 1  # what the log's codec can hold
Text = Annotated[str, AfterValidator(_encodable)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=200)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChatMessage(Body):
    role: Name
    content: Text


class Group(Body):
    """One prompt and the policy's responses to it."""

    id: Name | None = Field(None, description="Returned as it is; by default the group's place in the request.")
    prompt: Text | Annotated[list[ChatMessage], Field(min_length=1)]
    responses: list[Text] = Field(min_length=1)


class Policy(Body):
    """Which policy wrote the responses, and at which optimiser step."""

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

    groups: list[Group] = Field(min_length=1)
    version: VersionOrLabel | None = Field(
        None, description="Score with this version, or the one this label names, or 409."
    )
    min_version: VersionName | None = Field(None, description="Score with this version or a later one, or 409.")
    raw: bool = Field(False, description="Answer the model's own rewards beside the calibrated scores.")
    log: bool = Field(True, description="Log the groups as samples of the policy.")
    policy: Policy | None = None
    request_id: Name | None = Field(None, description="A repeated request with the same id is logged once.")


class GroupScores(BaseModel):
    id: str
    version: str = Field(description="The one version that scored this group: the request's, or the canary.")
    scores: list[float] = Field(description="One finite reward per response, in order, calibrated.")
    raw: list[float] | None = Field(None, description="Before calibration; where it was asked for.")
    tokens: list[int] = Field(description="Tokens of prompt and response, after truncation.")
    truncated: list[bool] = Field(description="Whether tokens were dropped from the left to fit.")


class ScoreResponse(BaseModel):
    version: str = Field(description="The one version that scored the request, but for a canary's groups.")
    groups: list[GroupScores]


class TokenizeRequest(Body):
    groups: list[Group] = Field(min_length=1)
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
    groups: list[GroupTokens]


class RetrainRequest(Body):
    """Options of one run, over the trainer's settings of the same names (docs/metarm.md)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ascent": "conservative", "steps": 40}]}
    )

    ascent: Ascent | None = Field(None, description="How an update uses the samples; none: vanilla.")
    steps: int | None = Field(None, ge=1, le=100_000)
    batch_size: int | None = Field(None, ge=1, le=4096, description="n, preference pairs in an update.")
    meta_batch_size: int | None = Field(None, ge=1, le=4096, description="m, groups in an update.")
    meta_every: int | None = Field(
        None, ge=1, le=100_000, description="Updates from one computation of the meta gradient to the next."
    )
    responses_per_prompt: int | None = Field(None, ge=2, le=256, description="k, responses used of each group.")
    learning_rate: float | None = Field(None, gt=0, le=1, description="α")
    ascent_rate: float | None = Field(None, ge=0, le=1000, description="η; each ascent has its own.")
    label_smoothing: float | None = Field(None, ge=0, lt=0.5, description="ε, share of labels taken as wrong.")
    center_rewards_coefficient: float | None = Field(
        None, ge=0, le=1000, description="Weight of mean (r_chosen + r_rejected)²."
    )
    trainable: Trainable | None = Field(None, description="Which parameters the run changes.")
    lora_rank: int | None = Field(None, ge=1, le=4096)
    lora_alpha: int | None = Field(None, ge=1, le=65_536)
    gradient_checkpointing: bool | None = Field(None, description="Less memory, more time.")
    train_precision: Precision | None = Field(None, description="What the run multiplies in.")
    seed: int | None = Field(None, ge=0, le=LARGEST_INTEGER)
    force: bool | None = Field(
        None,
        description="Publish the candidate in spite of the gate; its manifest and the job record the reasons "
        "against it. Scores that are not finite are never forced.",
    )


class Progress(BaseModel):
    model_config = ConfigDict(extra="allow")

    step: int
    steps: int | None


class JobState(BaseModel):
    job: str
    status: Literal["queued", "running", "published", "rejected", "failed", "cancelled"]
    created: float = Field(description="Unix time in seconds.")
    finished: float | None
    attempts: int = Field(description="How often a trainer has started it.")
    options: dict[str, Any]
    progress: Progress
    candidate: str | None = Field(description="The version it made, published or rejected.")
    verdict: dict[str, Any] | None = Field(
        description="accepted, forced, reasons, figures and thresholds of the gate."
    )
    samples: dict[str, int] | None = Field(description="Logged groups by what became of them.")
    error: dict[str, Any] | None
    trigger: dict[str, Any] | None = Field(description="The drift that started it, where nobody asked for it.")


class JobAccepted(BaseModel):
    job: str
    status: str
    status_url: str


class VersionEntry(BaseModel):
    name: str
    status: Literal["published", "rejected", "pruned", "unreadable"]
    current: bool = Field(description="The store's pointer names it.")
    serving: bool = Field(description="This server scores with it now.")
    loaded: bool = Field(description="This server holds it in memory.")
    parent: str | None = None
    job: str | None = None
    method: str | None = None
    created: str | None = None
    source: str | None = Field(None, description="The checkpoint that its first ancestor was made from.")
    samples: dict[str, Any] | None = Field(
        None, description="The range of the sample log it was adapted to, counts, and the policy's steps."
    )
    preferences: dict[str, Any] | None = Field(None, description="The file, its SHA-256, and its split.")
    settings: dict[str, Any] | None = Field(None, description="Of the run that made it.")
    code_version: str | None = None
    calibration: dict[str, float] | None = Field(None, description="score = scale · raw + shift.")
    verdict: dict[str, Any] | None = Field(
        None, description="accepted, forced, reasons, figures and thresholds of the gate."
    )
    reasons: list[str] = Field(
        default=[],
        description="Why it was rejected or cannot be read, or what spoke against it where it was forced.",
    )


class RefusedEntry(BaseModel):
    name: str
    reason: str = Field(description="Of the last time.")
    times: int
    first: float = Field(description="Unix time in seconds.")
    last: float


class LiveServer(BaseModel):
    id: str
    url: str = Field(description="Where it listens, as it knows.")
    pid: int
    serving: str | None
    loaded: list[str]
    started: float = Field(description="Unix time in seconds.")


class VersionList(BaseModel):
    current: str | None
    serving: str | None
    servers: list[LiveServer] | None = Field(description="Every live server; null where that is not known.")
    servers_unknown: str | None = Field(None, description="Why it is not known.")
    refused: dict[str, str] | None = Field(
        description="Where this server cannot follow the pointer: the version it would not load, and why."
    )
    refusals: list[RefusedEntry] = Field(
        description="Every version this server would not load since it started, latest last."
    )
    rollbacks: list[dict[str, Any]] = Field(
        description="Versions that a watch took back: version, parent, reason, figures, at (Unix time)."
    )
    versions: list[VersionEntry]


class ActivateRequest(Body):
    together: bool = Field(
        True, description="Wait until every live server has loaded it, and cut over together; or each alone."
    )


class Activated(BaseModel):
    current: str
    serving: str | None


class LabelRequest(Body):
    version: VersionName
    share: float | None = Field(
        None, ge=0, le=1, description="Of canary only: the share of prompts it concerns."
    )
    shadow: bool | None = Field(
        None, description="Of canary only: its scores are recorded beside the answer, not answered."
    )


class LabelEntry(BaseModel):
    label: str
    version: str
    share: float
    shadow: bool
    loaded: bool = Field(description="This server holds the version in memory.")


class LabelRemoved(BaseModel):
    label: str


class LeaseRequest(Body):
    version: VersionName | None = None
    label: LabelName | None = Field(None, description="The version this label names now, instead of a version.")
    ttl_s: float = Field(ge=1, description="How long it lasts, unless it is renewed.")

    @model_validator(mode="after")
    def _one_of_both(self) -> LeaseRequest:
        if (self.version is None) == (self.label is None):
            raise ValueError("a lease is of a version or of a label: name one of the two")
        return self

    @property
    def named(self) -> str:
        """The one of the two that was sent."""
        return f"{self.version or self.label}"


class LeaseRenewal(Body):
    ttl_s: float = Field(ge=1, description="From now; a lease that lasts longer stays as it is.")


class LeaseState(BaseModel):
    lease: str
    version: str
    expires: float = Field(description="Unix time in seconds.")


class LeaseReleased(BaseModel):
    lease: str


class Degraded(BaseModel):
    part: Literal["redis", "trainer", "version"]
    reason: str


class Readiness(BaseModel):
    status: Literal["ready", "degraded"]
    version: str
    degraded: list[Degraded]


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class ErrorDetail(BaseModel):
    code: str
    message: str
    details: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """The one shape of every failure."""

    error: ErrorDetail
