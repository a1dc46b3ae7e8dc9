"""Field types that the bodies share, and the body of every error."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from metarm.store.versions import NAME as VERSION


def _encodable(text: str) -> str:
    """Reject a lone surrogate, which JSON can escape but neither a tokenizer nor the log accepts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text has a lone surrogate: send valid Unicode") from error
    return text


def _no_misspelt_version(name: str) -> str:
    """Reject v12: it is a misspelt version, not a label."""
    if re.fullmatch(r"v\d+", name) and not VERSION.fullmatch(name):
        raise ValueError(f"{name} is not a version name, such as v000003")
    return name


def _no_version(name: str) -> str:
    if re.fullmatch(r"v\d+", name) or name == "current":
        raise ValueError(f"a label cannot be called {name}")
    return name


VersionName = Annotated[str, StringConstraints(pattern=r"^v\d{6,}$")]
VersionOrLabel = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), AfterValidator(_no_misspelt_version)
]
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$"), AfterValidator(_no_version)]
LARGEST_INTEGER = 2**63 - 1  # of the log's codec
Text = Annotated[str, AfterValidator(_encodable)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=200)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(BaseModel):
    code: str
    message: str
    details: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """The one shape of every failure."""

    error: ErrorDetail
