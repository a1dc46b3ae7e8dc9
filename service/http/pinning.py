"""The version that a request pins, in its body or headers, and the version that its answer names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from metarm.errors import InvalidRequestError
from service.http.schemas.fields import VersionName, VersionOrLabel

HEADER = "X-RM-Version"  # in requests and answers
MIN_HEADER = "X-RM-Min-Version"


@dataclass(frozen=True, slots=True)
class Pin:
    """A version's name or label, and the oldest version that may answer; None: any version."""

    version: str | None
    min_version: str | None

    def merged_with(self, version: str | None, min_version: str | None) -> Pin:
        """This pin, from the headers, merged with the body's. Raises InvalidRequestError if they differ."""
        return Pin(
            _one_of(self.version, version, "version"), _one_of(self.min_version, min_version, "min_version")
        )


async def _header_pin(
    request: Request,
    x_rm_version: Annotated[VersionOrLabel | None, Header(description="As `version` in the body.")] = None,
    x_rm_min_version: Annotated[VersionName | None, Header(description="As `min_version` in the body.")] = None,
) -> Pin:
    for name in (HEADER, MIN_HEADER):
        if len(set(request.headers.getlist(name))) > 1:
            raise InvalidRequestError(f"the header {name} is sent twice, with different values: send it once")
    return Pin(x_rm_version, x_rm_min_version)


def record_captured(request: Request, version: str) -> None:
    """Make every later answer to this request, including an error, name `version`."""
    request.state.captured = version


def captured_header(request: Request) -> dict[str, str]:
    """The header for an error's answer; empty if the request failed before it captured a version."""
    version = getattr(request.state, "captured", None)
    return {HEADER: version} if version else {}


HeaderPin = Annotated[Pin, Depends(_header_pin)]


def _one_of(header: str | None, body: str | None, name: str) -> str | None:
    if header is not None and body is not None and header != body:
        raise InvalidRequestError(f"{name} is {body} in the body and {header} in the headers: send it once")
    return header if body is None else body
