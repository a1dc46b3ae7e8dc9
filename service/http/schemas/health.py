"""Bodies of GET /health and GET /ready."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Degraded(BaseModel):
    part: Literal["redis", "trainer", "version", "loop"]
    reason: str


class Readiness(BaseModel):
    status: Literal["ready", "degraded"]
    version: str
    degraded: list[Degraded]


class Alive(BaseModel):
    status: Literal["alive"] = "alive"
