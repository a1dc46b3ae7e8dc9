"""The demo's picture: spread, accuracy and gold reward over the policy's steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulation.measures import Estimate
from simulation.rounds import Checkpoint, Rescoring

BEFORE, AFTER = "#1f5a99", "#c2571a"


def draw(
    checkpoints: Sequence[Checkpoint], rescorings: Sequence[Rescoring], before: str, after: str | None
) -> Figure:
    """Three panels; squares mark the same responses scored by the version `after` the retrain."""
    figure = Figure(figsize=(12.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    spread, accuracy, gold = figure.subplots(1, 3)
    steps = [checkpoint.step for checkpoint in checkpoints]
    measured = [checkpoint.measurement for checkpoint in checkpoints]

    spread.plot(steps, [c.spread_to_first for c in checkpoints], "o-", color=BEFORE, label=before)
    _error_bars(accuracy, steps, [m.accuracy for m in measured], "o-", BEFORE, before)
    gold.plot(steps, [m.gold_mean for m in measured], "o-", color=BEFORE)
    if rescorings and after:
        base = rescorings[0].after.score_spread or float("nan")
        seen = [rescoring.checkpoint.step for rescoring in rescorings]
        relative = [rescoring.after.score_spread / base for rescoring in rescorings]
        spread.plot(seen, relative, "s", color=AFTER, label=f"{after}, same responses")
        _error_bars(
            accuracy,
            seen,
            [rescoring.after.accuracy for rescoring in rescorings],
            "s",
            AFTER,
            f"{after}, same responses",
        )

    spread.set(title="Spread of score differences", ylabel="relative to policy step 0")
    spread.set_ylim(0.0, 1.1 * spread.get_ylim()[1])
    accuracy.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    accuracy.set(title="Pairs ranked as gold ranks them", ylabel="accuracy, 95% interval over prompts")
    gold.set(title="Gold reward of the policy", ylabel="points, mean")
    for axes in (spread, accuracy, gold):
        axes.set_xlabel("policy step")
    spread.legend(frameon=False)
    accuracy.legend(frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    figure.savefig(path, format="png", dpi=120)


def _error_bars(
    axes: Axes, steps: Sequence[int], values: Sequence[Estimate], style: str, color: str, label: str
) -> None:
    centre = [value.value for value in values]
    below = [value.value - value.low for value in values]
    above = [value.high - value.value for value in values]
    axes.errorbar(steps, centre, yerr=[below, above], fmt=style, color=color, capsize=3, label=label)
