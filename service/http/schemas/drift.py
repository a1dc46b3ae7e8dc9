"""The bodies of GET /drift and GET /drift/{version}."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from service.http.schemas.retrain import JobState


class Figures(BaseModel):
    """Over some groups (service/oversight/drift.py says how); null where there is nothing to tell it by."""

    groups: int
    compared_groups: int = Field(description="Those of two or more responses.")
    responses: int
    spread: float | None = Field(description="Root mean square difference of two scores of a group.")
    spread_ratio: float | None = Field(description="spread by the spread on held-out preferences.")
    length_correlation: float | None = Field(description="Of score and tokens, both centred by group.")
    truncation_rate: float | None
    saturated_share: float | None = Field(description="Scores outside the reference's 1% to 99%.")


class StepFigures(Figures):
    policy: str | None = Field(description="Null for groups that came without.")
    step: int | None


class OlderFigures(Figures):
    steps: int = Field(description="How many policy steps are merged here.")


class ComparisonFigures(BaseModel):
    groups: int
    disagreement: float | None = Field(description="Share of pairs that the other orders otherwise.")
    disagreement_error: float | None = Field(description="Its standard error, over groups.")
    spread: float | None
    spread_ratio: float | None
    other_spread: float | None = Field(description="On the same groups, as all here.")
    other_spread_ratio: float | None
    relative_spread: float | None = Field(description="spread_ratio by other_spread_ratio.")


class ShadowFigures(BaseModel):
    other: str = Field(description="The version that scored some of this one's groups as well.")
    total: ComparisonFigures
    window: ComparisonFigures


class InDistribution(BaseModel):
    spread: float = Field(description="Of the version's scores on held-out preferences.")
    pairs: int | None = Field(description="How many of them; null where its manifest does not say.")


class VersionFigures(BaseModel):
    version: str
    in_distribution: InDistribution | None
    no_ratio: str | None = Field(description="Why what needs a reference is null.")
    non_finite: int = Field(description="Requests failed by a score that is not a finite number.")
    total: Figures
    window: Figures = Field(description="Over the newest METARM_RETRAIN_OVER_GROUPS groups.")
    steps: list[StepFigures] = Field(description="By policy step, the one seen last first.")
    older_steps: OlderFigures | None
    shadow: list[ShadowFigures]


class WatchEnded(BaseModel):
    version: str
    parent: str
    outcome: str = Field(description="passed, unjudged, rolled_back or left.")
    at: float = Field(description="Unix time in seconds.")
    reason: str | None
    figures: dict[str, Any]


class Watching(BaseModel):
    version: str
    parent: str
    began: float = Field(description="Unix time in seconds.")
    share: float = Field(description="Of prompts: those whose groups the parent scores as well.")
    answered_groups: int
    non_finite: int
    compared: ComparisonFigures
    spread_not_compared: str | None = Field(description="Why the spreads cannot be compared.")
    rollback_failed: str | None


class WatchState(BaseModel):
    watching: Watching | None
    ended: list[WatchEnded] = Field(description="The newest first, by whichever server.")


class AutoRetrainState(BaseModel):
    retrain: str
    state: str
    reason: str | None
    triggers: list[JobState] = Field(description="The last jobs that drift has started.")


class DriftReport(BaseModel):
    """What this server has seen since it started."""

    serving: str | None
    versions: list[VersionFigures] = Field(description="The one scored last first.")
    watch: WatchState
    auto_retrain: AutoRetrainState


class Histogram(BaseModel):
    """Of |score - score| of two responses to one prompt."""

    pairs: int
    width: float = Field(description="Of a bin; the first begins at 0.")
    counts: list[int]
    beyond: int = Field(description="Past the last bin.")


class Against(BaseModel):
    version: str
    differences: Histogram


class Lengths(BaseModel):
    tokens: list[int] = Field(description="Of prompt and response, after truncation.")
    scores: list[float]


class RecentReport(BaseModel):
    """Of the newest groups that this server has answered: at most 2048 pairs and 512 responses."""

    version: str
    differences: Histogram
    against: Against | None = Field(description="Another version on the groups it has answered itself.")
    lengths: Lengths
