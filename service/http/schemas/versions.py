"""Bodies of GET /versions and of activations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.http.schemas.deprecated_names import Verdict
from service.http.schemas.drift import WatchEnded
from service.http.schemas.fields import Body


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
    verdict: Verdict | None = Field(
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
    rollbacks: list[WatchEnded] = Field(description="Versions that a watch rolled back, the newest first.")
    versions: list[VersionEntry]


class CurvePoint(BaseModel):
    step: int
    accuracy: float


class VersionCurve(BaseModel):
    """How a version was learnt. Lists are by update, and empty where none was kept."""

    version: str
    loss: list[float]
    difference: list[float | None] = Field(
        description="What the samples' part of an update is about: J, or C of conservative."
    )
    held_out_accuracy: list[CurvePoint] = Field(description="Step 0: before it.")


class ActivateRequest(Body):
    together: bool = Field(
        True, description="Wait until every live server has loaded it, and cut over together; or each alone."
    )


class Activated(BaseModel):
    current: str
    serving: str | None
