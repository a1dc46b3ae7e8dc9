"""Figures in answers under their current names and, for one release, also under their deprecated names.

Records of earlier releases have only the deprecated names: answers have both.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, model_validator

from metarm.figures import DEPRECATED_DRIFT_NAMES, DEPRECATED_GATE_NAMES, with_deprecated_names


def deprecated(new_name: str) -> Any:
    """A field that is marked as deprecated in OpenAPI; `DriftFigures` fills it."""
    return Field(deprecated=True, description=f"Deprecated: {new_name}.")


class DriftFigures(BaseModel):
    """A body with figures of drift."""

    @model_validator(mode="before")
    @classmethod
    def _both_names(cls, values: Any) -> Any:
        return _drift(values) if isinstance(values, dict) else values


def _drift(figures: dict[str, Any]) -> dict[str, Any]:
    return with_deprecated_names(figures, DEPRECATED_DRIFT_NAMES)


def _watch(figures: dict[str, Any]) -> dict[str, Any]:
    compared = figures.get("compared")
    return {**figures, "compared": _drift(compared)} if isinstance(compared, dict) else figures


def _verdict(verdict: dict[str, Any]) -> dict[str, Any]:
    figures = verdict.get("figures")
    if not isinstance(figures, dict):
        return verdict
    return {**verdict, "figures": with_deprecated_names(figures, DEPRECATED_GATE_NAMES)}


Trigger = Annotated[dict[str, Any], AfterValidator(_drift)]
WatchFigures = Annotated[dict[str, Any], AfterValidator(_watch)]
Verdict = Annotated[dict[str, Any], AfterValidator(_verdict)]
