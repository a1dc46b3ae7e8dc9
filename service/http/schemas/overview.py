"""The body of GET /overview."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from service.http.schemas.health import Degraded
from service.http.schemas.labels import LabelEntry


class Latency(BaseModel):
    """Latency of the requests to /score answered with scores in the last minute (at most the newest 4096)."""

    requests: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Now(BaseModel):
    """Figures over the last minute; null without data."""

    over_s: float = Field(description="Seconds that these figures cover.")
    requests_per_s: float | None
    failed_per_s: float | None = Field(description="Requests to /score answered with status 500 or above.")
    responses_per_s: float | None = Field(description="Scores answered.")
    tokens_per_s: float | None = Field(description="Tokens of the scored sequences.")
    latency: Latency
    batch_fill: float | None = Field(
        description="Tokens of the slices taken ÷ tokens they have room for; above 1 if one text is longer."
    )


class Queue(BaseModel):
    tokens: int = Field(description="Waiting for a forward.")
    limit: int = Field(description="Beyond it a request gets 503.")


class TrainerState(BaseModel):
    state: str = Field(description="ready, or its step before that.")


class ActiveJob(BaseModel):
    job: str
    status: str
    step: int
    steps: int | None


class History(BaseModel):
    """The last ten minutes by column, a point every two seconds, each over the ten seconds before it."""

    at: list[float] = Field(description="Unix time in seconds.")
    serving: list[str | None]
    requests_per_s: list[float | None]
    responses_per_s: list[float | None]
    p50_ms: list[float | None]
    p95_ms: list[float | None]
    p99_ms: list[float | None]
    queue_tokens: list[int]
    batch_fill: list[float | None]


class Overview(BaseModel):
    """The current state of this server."""

    server_version: str
    started: float = Field(description="Unix time in seconds.")
    rights: Literal["score", "admin"] = Field(
        description="Of the key that was sent; admin where the server has no keys."
    )
    serving: str | None
    loaded: list[str] = Field(description="Versions in memory.")
    labels: list[LabelEntry]
    now: Now
    queue: Queue
    samples_buffered: int = Field(description="Groups waiting for Redis.")
    redis: Literal["up", "down"] | None = Field(description="Null in the first moments.")
    trainer: TrainerState | None
    job: ActiveJob | None = Field(description="The run that is queued or running.")
    degraded: list[Degraded]
    history: History
