"""Bodies of the lease routes."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator

from service.http.schemas.fields import Body, LabelName, VersionName


class LeaseRequest(Body):
    version: VersionName | None = Field(None, description="Without a version and a label: the current one.")
    label: LabelName | None = Field(
        None, description="Instead of a version: the version that this label names now."
    )
    ttl_s: float = Field(ge=1, description="Seconds it lasts, unless it is renewed.")

    @model_validator(mode="after")
    def _not_both(self) -> LeaseRequest:
        if self.version is not None and self.label is not None:
            raise ValueError("name a version or a label, not both; neither: the current version")
        return self

    @property
    def named(self) -> str | None:
        """The version or the label; None for the current version."""
        return self.version or self.label


class LeaseRenewal(Body):
    ttl_s: float = Field(ge=1, description="Seconds from now; a lease that lasts longer stays unchanged.")


class LeaseState(BaseModel):
    lease: str
    version: str
    expires: float = Field(description="Unix time in seconds.")


class LeaseReleased(BaseModel):
    lease: str
