"""Figures as plain text that reads the same on a terminal and in a file."""

from __future__ import annotations

from collections.abc import Sequence

from simulation.measures import Estimate
from simulation.rounds import Checkpoint, Rescoring

HEADINGS = (
    ("step", 4), ("KL", 6), ("RM score", 8), ("spread", 7), ("÷ step 0", 8), ("Var(Δr)", 8),
    ("accuracy [95%]", 20), ("gold", 6), ("Var(Δg)", 8), ("words", 6), ("r·length", 8),
)  # fmt: skip
LEGEND = (
    "spread: standard deviation of Δr, the score difference of two responses to a prompt; accuracy: share\n"
    "of such pairs that the RM ranks as the gold reward does; r·length: correlation of score and words"
)


def checkpoint_table() -> str:
    """The legend and the heading of the rows of `checkpoint_row`."""
    return f"{LEGEND}\n" + " ".join(f"{name:>{width}}" for name, width in HEADINGS)


def checkpoint_row(checkpoint: Checkpoint) -> str:
    """One line of the table."""
    m = checkpoint.measurement
    cells = (
        f"{checkpoint.step}",
        f"{checkpoint.kl:.2f}",
        f"{m.score_mean:.3f}",
        f"{m.score_spread:.3f}",
        f"{checkpoint.spread_to_first:.2f}",
        f"{m.score_variance:.3f}",
        interval(m.accuracy),
        f"{m.gold_mean:.2f}",
        f"{m.gold_variance:.2f}",
        f"{m.length_mean:.0f}",
        f"{m.score_length_correlation:.2f}",
    )
    return " ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, HEADINGS, strict=True))


def change_rows(before: str, after: str, rescorings: Sequence[Rescoring]) -> str:
    """A table of the same responses scored by both versions.

    `relative` is the spread over the same version's spread on the first responses, so that a version on a
    larger scale does not seem to separate responses better.
    """
    lines = [f"{'same responses, scored by':<32} {'spread':>7} {'relative':>8} {'accuracy [95%]':>20}"]
    first = rescorings[0]
    for rescoring in rescorings:
        for version, measured, base in (
            (before, rescoring.checkpoint.measurement, first.checkpoint.measurement),
            (after, rescoring.after, first.after),
        ):
            relative = measured.score_spread / base.score_spread if base.score_spread else float("nan")
            lines.append(
                f"{f'policy step {rescoring.checkpoint.step}, {version}':<32} {measured.score_spread:>7.3f} "
                f"{relative:>8.2f} {interval(measured.accuracy):>20}"
            )
    return "\n".join(lines)


def change_sentences(rescorings: Sequence[Rescoring]) -> str:
    """One sentence for each set of responses: the change of accuracy, and whether its interval excludes 0."""
    return "\n".join(
        f"accuracy on the responses of policy step {each.checkpoint.step}: {_change(each.accuracy_change)}"
        for each in rescorings
    )


def interval(estimate: Estimate) -> str:
    """`.612 [.550, .671]`."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _change(estimate: Estimate) -> str:
    figures = f"{estimate.value:+.3f} (95% interval {estimate.low:+.3f} to {estimate.high:+.3f})"
    if estimate.low > 0:
        return f"{figures}: higher than before"
    if estimate.high < 0:
        return f"{figures}: lower than before"
    return f"{figures}: no difference could be shown"
