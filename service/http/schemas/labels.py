"""Bodies of the label routes."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.http.schemas.fields import Body, Flag, VersionName


class LabelRequest(Body):
    version: VersionName
    share: float | None = Field(None, ge=0, le=1, description="For canary only: its share of the prompts.")
    shadow: Flag | None = Field(
        None, description="For canary only: its scores are only recorded, and the current version answers."
    )


class LabelEntry(BaseModel):
    label: str
    version: str
    share: float
    shadow: bool
    loaded: bool = Field(description="This server holds the version in memory.")


class LabelRemoved(BaseModel):
    label: str
