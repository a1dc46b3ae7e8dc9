"""Bodies of POST /retrain and of the jobs it starts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from metarm.records import Ascent, Precision, Trainable
from service.http.schemas.deprecated_names import Trigger, Verdict
from service.http.schemas.fields import LARGEST_INTEGER, Body, Flag, Name


class RetrainRequest(Body):
    """Options of one run, over the trainer's settings of the same names (docs/metarm.md)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ascent": "conservative", "steps": 40}]}
    )

    ascent: Ascent | None = Field(
        None, description="How an update uses the samples; none: no meta step (vanilla)."
    )
    steps: int | None = Field(None, ge=1, le=100_000)
    batch_size: int | None = Field(None, ge=1, le=4096, description="n, preference pairs in an update.")
    meta_batch_size: int | None = Field(None, ge=1, le=4096, description="m, groups in an update.")
    meta_every: int | None = Field(
        None, ge=1, le=100_000, description="Updates from one computation of the meta gradient to the next."
    )
    responses_per_prompt: int | None = Field(None, ge=2, le=256, description="k, responses used of each group.")
    learning_rate: float | None = Field(None, gt=0, le=1, description="α")
    ascent_rate: float | None = Field(None, ge=0, le=1000, description="η; the default depends on the ascent.")
    label_smoothing: float | None = Field(
        None, ge=0, lt=0.5, description="ε, the share of labels assumed to be wrong."
    )
    center_rewards_coefficient: float | None = Field(
        None, ge=0, le=1000, description="Weight of mean (r_chosen + r_rejected)²."
    )
    trainable: Trainable | None = Field(None, description="Which parameters the run changes.")
    lora_rank: int | None = Field(None, ge=1, le=4096)
    lora_alpha: int | None = Field(None, ge=1, le=65_536)
    gradient_checkpointing: Flag | None = Field(None, description="Less memory, more time.")
    train_precision: Precision | None = Field(None, description="Precision of the run's matrix products.")
    seed: int | None = Field(None, ge=0, le=LARGEST_INTEGER)
    force: Flag | None = Field(
        None,
        description="Publish the candidate although the gate rejects it; its manifest and the job record the "
        "reasons. A candidate with non-finite scores is never published.",
    )
    reuse: Name | None = Field(
        None,
        description="A job that has ended: its samples that are still logged are used again, with all newer "
        "unused ones, the newest first up to the trainer's max_groups.",
    )


class Progress(BaseModel):
    model_config = ConfigDict(extra="allow")

    step: int
    steps: int | None
    ascent: str | None = Field(None, description="That of the run; null before it begins.")
    updates_left_s: float | None = Field(
        None, description="Seconds that the updates left take at the mean pace so far; the gate follows."
    )


class JobState(BaseModel):
    job: str
    status: Literal["queued", "running", "published", "rejected", "failed", "cancelled"]
    created: float = Field(description="Unix time in seconds.")
    finished: float | None
    attempts: int = Field(description="Number of times a trainer has started it.")
    options: dict[str, Any]
    progress: Progress
    candidate: str | None = Field(description="The version it made, published or rejected.")
    verdict: Verdict | None = Field(
        description="accepted, forced, reasons, remedies (one for each reason), figures and thresholds of the "
        "gate."
    )
    samples: dict[str, int] | None = Field(
        description="Logged groups by use: used, superseded, single_response, unreadable; with reuse also "
        "reused (among the used), and trimmed (of the former run, no longer logged)."
    )
    error: dict[str, Any] | None
    trigger: Trigger | None = Field(description="The drift figures that started it; null if a client did.")


class Curve(BaseModel):
    """The learning curve of a run, at most 200 points: neighbouring updates of a long run are averaged."""

    steps: list[int] = Field(description="The last update of each point.")
    loss: list[float] = Field(description="The preference loss.")
    difference: list[float | None] = Field(
        description="J of the samples, or C of conservative; null if it was not computed."
    )


class JobDetail(JobState):
    curve: Curve | None


class JobAccepted(BaseModel):
    job: str
    status: str
    status_url: str
