"""The plan of a drill: its length, world, sabotage and watch. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.closed_loop.plan import StudyPlan


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """One drill. An update is `world.prompts` prompts × `world.responses` responses and one step of the
    policy; `before` of them are made on the honest version, `after` once the hacked one is forced through."""

    sabotage: str = "reversed"
    seed: int = 0
    before: int = 8
    after: int = 24
    block: int = 4  # updates in a row of the table
    probed_prompts: int = 16
    world: StudyPlan = field(default_factory=StudyPlan)
    retrain: Mapping[str, Any] = field(  # as long as the first model's own training: it is to forget that
        default_factory=lambda: {"ascent": "none", "steps": 200, "batch_size": 16, "learning_rate": 1e-3}
    )
    service: Mapping[str, str] = field(default_factory=dict)  # its settings, by their environment names

    @property
    def updates(self) -> int:
        return self.before + self.after
