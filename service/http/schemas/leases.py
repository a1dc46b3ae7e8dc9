"""Bodies of the routes of leases."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator

from service.http.schemas.fields import Body, LabelName, VersionName


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
