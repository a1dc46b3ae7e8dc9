"""Field types that the bodies share, and the body of every error."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Strict,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from metarm.store.versions import NAME as VERSION


def _no_misspelt_version(name: str) -> str:
    """Reject v12: it is a misspelt version, not a label."""
    if re.fullmatch(r"v\d+", name) and not VERSION.fullmatch(name):
        raise ValueError(f"{name} is not a version name, such as v000003")
    return name


def _no_version(name: str) -> str:
    if re.fullmatch(r"v\d+", name) or name == "current":
        raise ValueError(f"a label cannot be called {name}")
    return name


def _version_name(name: str) -> str:
    if not VERSION.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is not a version name, such as v000003")
    return name


VersionName = Annotated[
    str,
    AfterValidator(_version_name),
    WithJsonSchema({"type": "string", "pattern": f"^{VERSION.pattern}$"}),
]
Flag = Annotated[bool, Strict()]  # not "yes" or 1
VersionOrLabel = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), AfterValidator(_no_misspelt_version)
]
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), AfterValidator(_no_version)]
LARGEST_INTEGER = 2**63 - 1  # of the log's codec
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
MAX_UNKNOWN = 5  # unknown fields of one object that are reported


def few_unknown(values: Any, known: Collection[str]) -> Any:
    """Leave out unknown fields beyond the first few: pydantic would report each of 100,000."""
    if not isinstance(values, dict) or len(values) <= len(known):
        return values
    unknown = itertools.islice((name for name in values if name not in known), MAX_UNKNOWN)
    return {name: values[name] for name in (*(name for name in known if name in values), *unknown)}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, values: Any) -> Any:
        return few_unknown(values, cls.__pydantic_fields__)


class ErrorDetail(BaseModel):
    code: str
    message: str
    details: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """The one shape of every failure."""

    error: ErrorDetail
