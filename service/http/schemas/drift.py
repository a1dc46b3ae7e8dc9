"""The bodies of GET /drift and GET /drift/{version}."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.http.schemas.deprecated_names import DriftFigures, WatchFigures, deprecated
from service.http.schemas.retrain import JobState


class Figures(DriftFigures):
    """Figures over some groups, as metarm/figures.py defines them; null if one is undefined."""

    groups: int
    compared_groups: int = Field(description="Groups of two or more distinct responses.")
    responses: int
    spread: float | None = Field(
        description="Root mean square difference of the scores of two distinct responses of a group."
    )
    spread_to_reference: float | None = Field(description="spread ÷ the spread on held-out preferences.")
    spread_ratio: float | None = deprecated("spread_to_reference")
    length_correlation: float | None = Field(description="Of score and tokens, centred by group.")
    truncation_rate: float | None
    saturated_share: float | None = Field(
        description="Share of scores outside the middle 98% of those of held-out preferences."
    )


class StepFigures(Figures):
    policy: str | None = Field(description="Null for groups without a policy step.")
    step: int | None


class OlderFigures(Figures):
    steps: int = Field(description="How many policy steps are merged here.")


class ComparisonFigures(DriftFigures):
    groups: int
    disagreement: float | None = Field(description="Share of pairs that the other version orders differently.")
    disagreement_error: float | None = Field(description="Its standard error, over groups.")
    spread: float | None
    spread_to_reference: float | None
    spread_ratio: float | None = deprecated("spread_to_reference")
    other_spread: float | None = Field(description="The other version's spread on the same groups.")
    other_spread_to_reference: float | None
    other_spread_ratio: float | None = deprecated("other_spread_to_reference")
    spread_to_other: float | None = Field(description="spread_to_reference ÷ other_spread_to_reference.")
    relative_spread: float | None = deprecated("spread_to_other")


class ShadowFigures(BaseModel):
    other: str = Field(description="The version that also scored some of this version's groups.")
    total: ComparisonFigures
    window: ComparisonFigures


class InDistribution(BaseModel):
    spread: float = Field(description="Of the version's scores on held-out preferences.")
    pairs: int | None = Field(description="Held-out pairs; null if the manifest does not say.")


class VersionFigures(DriftFigures):
    version: str
    in_distribution: InDistribution | None
    ratio_unavailable: str | None = Field(description="Why figures that need a reference are null.")
    no_ratio: str | None = deprecated("ratio_unavailable")
    non_finite: int = Field(description="Requests that failed on a non-finite score.")
    total: Figures
    window: Figures = Field(description="Over the newest METARM_RETRAIN_OVER_GROUPS groups.")
    steps: list[StepFigures] = Field(description="By policy step, the latest first.")
    older_steps: OlderFigures | None
    shadow: list[ShadowFigures]


class WatchEnded(BaseModel):
    version: str
    parent: str
    outcome: str = Field(description="passed, unjudged, rolled_back or left.")
    at: float = Field(description="Unix time in seconds.")
    reason: str | None
    figures: WatchFigures


class Watching(BaseModel):
    version: str
    parent: str
    began: float = Field(description="Unix time in seconds.")
    share: float = Field(description="Share of prompts whose groups the parent scores too.")
    answered_groups: int
    non_finite: int
    compared: ComparisonFigures
    spread_not_compared: str | None = Field(description="Why the spreads cannot be compared.")
    rollback_failed: str | None


class WatchState(BaseModel):
    watching: Watching | None
    ended: list[WatchEnded] = Field(description="Watches of all servers, the newest first.")


class AutoRetrainState(BaseModel):
    retrain: str
    state: str
    reason: str | None
    triggers: list[JobState] = Field(description="The last jobs that drift started.")


class DriftReport(BaseModel):
    """The figures of this server since it started."""

    serving: str | None
    versions: list[VersionFigures] = Field(description="By their last score, the newest first.")
    watch: WatchState
    auto_retrain: AutoRetrainState


class Histogram(BaseModel):
    """Of the absolute score differences of two responses to one prompt."""

    pairs: int
    width: float = Field(description="Width of a bin; the first begins at 0.")
    counts: list[int]
    beyond: int = Field(description="Differences past the last bin.")


class Against(BaseModel):
    version: str
    differences: Histogram


class Lengths(BaseModel):
    tokens: list[int] = Field(description="Of prompt and response, after truncation.")
    scores: list[float]


class RecentReport(BaseModel):
    """From the newest groups that this server answered: at most 2048 pairs and 512 responses."""

    version: str
    differences: Histogram
    against: Against | None = Field(description="Another version, on its own groups.")
    lengths: Lengths
