"""A version's learning curve: losses and held-out accuracies, as a record, a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metarm.errors import ConfigurationError
from trainer.training import TrainReport

TABLE_ROWS = 12  # at most; the record has all points


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """`losses[i]` and `differences[i]` are of step i + 1; a difference is the J (or C) of a run on samples,
    None if it was not computed. `accuracies` are (step, held-out accuracy), step 0 before training."""

    losses: Sequence[float]
    accuracies: Sequence[tuple[int, float]]
    differences: Sequence[float | None] | None = None

    @classmethod
    def of_run(cls, report: TrainReport, figures: Mapping[str, float | None]) -> LearningCurve:
        """The curve of a retrain, with the accuracies that the gate measured before and after it."""
        measured = [(0, figures.get("parent_accuracy")), (report.steps, figures.get("held_out_accuracy"))]
        return cls(
            [step.loss for step in report.curve],
            [(step, accuracy) for step, accuracy in measured if accuracy is not None],
            [step.difference for step in report.curve],
        )

    def record(self) -> dict[str, Any]:
        """For the file beside a version's manifest."""
        accuracies = [{"step": step, "accuracy": value} for step, value in self.accuracies]
        differences = {} if self.differences is None else {"difference": list(self.differences)}
        return {"loss": list(self.losses), **differences, "held_out_accuracy": accuracies}

    def table(self) -> str:
        """Held-out accuracies, each with the mean loss since the row before."""
        lines = [f"{'step':>8}{'loss':>10}{'held-out accuracy':>20}"]
        before = 0
        for step, accuracy in _thinned(self.accuracies):
            since = self.losses[before:step]
            loss = f"{sum(since) / len(since):.4f}" if since else "-"
            lines.append(f"{step:>8}{loss:>10}{accuracy:>20.3f}")
            before = step
        return "\n".join(lines)

    def draw(self, path: Path) -> None:
        """Write a PNG of both curves."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # optional: `check_drawable` checks for it
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        left.plot(range(1, len(self.losses) + 1), self.losses, linewidth=0.8)
        left.set(title="Preference loss", xlabel="step", ylabel="mean over the batch")
        right.plot([s for s, _ in self.accuracies], [a for _, a in self.accuracies], "o-")
        right.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        right.set(title="Held-out accuracy", xlabel="step", ylabel="share of pairs ranked as labelled")
        figure.savefig(path, format="png", dpi=120)


def check_drawable(path: Path) -> None:
    """Raise ConfigurationError where a picture cannot be written to `path`; call it before the training."""
    if find_spec("matplotlib") is None:
        raise ConfigurationError("--curve needs matplotlib: pip install matplotlib, or leave it out")
    if path.is_dir():
        raise ConfigurationError(f"--curve {path} is a folder: name a file")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"--curve {path}: there is no folder {path.absolute().parent}")


def _thinned(rows: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most TABLE_ROWS rows, among them the first and the last."""
    if len(rows) <= TABLE_ROWS:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (TABLE_ROWS - 1))] for i in range(TABLE_ROWS)]
