"""Calibration: the line from a version's raw rewards to its scores, so that a swap keeps their scale."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from metarm.errors import InvalidVersionError


@dataclass(frozen=True, slots=True)
class Calibration:
    """score = scale · raw + shift. `scale` is positive, so that scores rank as raw rewards do."""

    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Self:
        """The calibration in a manifest; the identity if it has none. Raises InvalidVersionError."""
        try:
            found = cls(**(manifest.get("calibration") or {}))
            usable = 0 < found.scale < math.inf and math.isfinite(found.shift)
        except TypeError:
            usable = False
        if not usable:
            raise InvalidVersionError(f"{manifest.get('name')}: its calibration needs a positive, finite scale")
        return found

    def scores(self, raw: Sequence[float]) -> list[float]:
        return [self.scale * reward + self.shift for reward in raw]

    def record(self) -> dict[str, float]:
        """The calibration as a manifest has it."""
        return asdict(self)


IDENTITY = Calibration()


def fit(raw: Sequence[float], like: Sequence[float]) -> Calibration:
    """The line after which `raw`, a candidate's rewards of some texts, has the median and interquartile range
    of `like`, its parent's scores of the same texts.

    Robust against outliers: up to a quarter of the rewards may lie anywhere. If either range is 0, only the
    median is matched. Both need two values or more, all finite.
    """
    (low, middle, high), (like_low, like_middle, like_high) = (_quartiles(values) for values in (raw, like))
    spread, like_spread = high - low, like_high - like_low
    scale = like_spread / spread if spread > 0 and like_spread > 0 else 1.0
    return Calibration(scale, like_middle - scale * middle)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
