"""Bodies of GET /versions and of activations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.http.schemas.deprecated_names import Verdict
from service.http.schemas.drift import WatchEnded
from service.http.schemas.fields import Body, Flag


class HeldOutPairs(BaseModel):
    source: str
    sha256: str = Field(description="Of the preference file.")
    share: float | None = Field(description="Of the file's prompts; null if it is unknown.")
    pairs: int | None


class VersionEntry(BaseModel):
    name: str
    status: Literal["published", "rejected", "pruned", "unreadable"]
    rolled_back: bool = Field(
        False, description="The pointer left it for an older version, and has not returned."
    )
    current: bool = Field(description="The store's pointer names it.")
    serving: bool = Field(description="This server scores with it now.")
    loaded: bool = Field(description="This server holds it in memory.")
    parent: str | None = None
    job: str | None = None
    method: str | None = None
    created: str | None = None
    source: str | None = Field(None, description="The checkpoint of its first ancestor.")
    samples: dict[str, Any] | None = Field(
        None, description="The range of the sample log it was adapted to, counts, and the policy's steps."
    )
    preferences: dict[str, Any] | None = Field(None, description="The file, its SHA-256, and its split.")
    held_out_accuracy: float | None = None
    held_out: HeldOutPairs | None = Field(
        None, description="The pairs of this accuracy; it compares only with others on the same pairs."
    )
    evaluations: list[dict[str, Any]] = Field(
        default=[],
        description="What `metarm evaluate` measured, the newest first: `at`, `preferences` (source, sha256, "
        "pairs), `accuracy`, `interval`, `change` from the `parent` (mean, low, high, lost, won, p), "
        "`longer_wins`, `by_length`.",
    )
    settings: dict[str, Any] | None = Field(None, description="Settings of the run that made it.")
    code_version: str | None = None
    calibration: dict[str, float] | None = Field(None, description="score = scale · raw + shift.")
    verdict: Verdict | None = Field(
        None,
        description="accepted, forced, reasons, remedies (one for each reason), figures and thresholds of the "
        "gate.",
    )
    reasons: list[str] = Field(
        default=[],
        description="Why it was rejected, why it cannot be read, or the gate's reasons against a forced one.",
    )


class RefusedEntry(BaseModel):
    name: str
    reason: str = Field(description="The last reason.")
    times: int
    first: float = Field(description="Unix time in seconds.")
    last: float


class LiveServer(BaseModel):
    id: str
    url: str = Field(description="The URL that it registered.")
    pid: int
    serving: str | None
    loaded: list[str]
    started: float = Field(description="Unix time in seconds.")


class VersionList(BaseModel):
    current: str | None
    serving: str | None
    servers: list[LiveServer] | None = Field(description="Every live server; null if it is unknown.")
    servers_unknown: str | None = Field(None, description="Why the servers are unknown.")
    refused: dict[str, str] | None = Field(
        description="The version that this server refuses although the pointer names it, and why."
    )
    refusals: list[RefusedEntry] = Field(
        description="Every version that this server has refused to load since its start, the latest last."
    )
    rollbacks: list[WatchEnded] = Field(description="Versions that a watch rolled back, the newest first.")
    versions: list[VersionEntry] = Field(
        description="The newest `count`, oldest first; the current and the serving."
    )
    total: int = Field(description="Versions in all.")


class CurvePoint(BaseModel):
    step: int
    accuracy: float


class VersionCurve(BaseModel):
    """The learning curve of a version. Lists are by update; they are empty if no curve was kept."""

    version: str
    loss: list[float]
    difference: list[float | None] = Field(description="J of the samples, or C of conservative.")
    held_out_accuracy: list[CurvePoint] = Field(description="Step 0 is before the first update.")


class ActivateRequest(Body):
    together: Flag = Field(
        True,
        description="Cut over together, once every live server has loaded it; false: each server by itself.",
    )


class Activated(BaseModel):
    current: str
    serving: str | None
