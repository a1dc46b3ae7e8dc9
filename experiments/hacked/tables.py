"""The results of drills as plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from experiments.hacked.learner import Update
from experiments.hacked.play import Drill
from experiments.hacked.sabotage import SABOTAGES

LEGEND = (
    "accuracy: pairs of a prompt's responses that the answered scores rank as the gold reward does;\n"
    "gold: mean of the policy's responses; the last two columns: the same policy, had the hacked version\n"
    "stayed, and had it never come"
)
HEADINGS = (
    ("updates", 9), ("groups answered by", 30), ("accuracy", 9), ("spread", 7), ("r·length", 9),
    ("words", 6), ("gold", 6), ("stayed", 7), ("spared", 7),
)  # fmt: skip
SUMMARY = (
    ("sabotage", 10), ("watch", 24), ("groups", 7), ("disagreement", 13), ("spread ÷", 9),
    ("accuracy", 14), ("gold at the end", 16), ("stayed", 7), ("spared", 7),
)  # fmt: skip


def story(drill: Drill) -> str:
    """One drill: the forced version, the table of its updates, the end of the watch."""
    verdict = drill.job["verdict"]
    against = "; ".join(verdict["reasons"])
    gate = f"by force, although the gate found: {against}" if verdict["forced"] else "with the gate's approval"
    lines = [
        f"{drill.plan.sabotage}: {SABOTAGES[drill.plan.sabotage].says}",
        f"{drill.hacked} published {gate}\n",
        f"{LEGEND}\n{_row(HEADINGS, [name for name, _ in HEADINGS])}",
        *_blocks(drill),
        "",
        _ending(drill),
    ]
    return "\n".join(lines)


def summary(drills: Sequence[Drill]) -> str:
    """A row a drill; gold is of the last block of updates."""
    lines = [
        "groups: scored by the hacked version until the watch ended; disagreement and spread ÷: against its\n"
        "parent, on the groups that both scored; accuracy: of its parent's scores, then of its own",
        _row(SUMMARY, [name for name, _ in SUMMARY]),
    ]
    for drill in drills:
        compared = (drill.watch or {}).get("figures", {}).get("compared", {})
        honest = [u.accuracy for u in drill.served[: drill.plan.before]]
        hacked = [u.accuracy for u in drill.stayed[: drill.plan.block]]
        cells = [
            drill.plan.sabotage,
            drill.watch["outcome"] if drill.watch else "not ended",
            f"{drill.hacked_groups}",
            _figure(compared.get("disagreement")),
            _figure(compared.get("spread_to_other")),
            f"{np.mean(honest):.2f} → {np.mean(hacked):.2f}",
            *(f"{_gold_at_the_end(path, drill):.2f}" for path in (drill.served, drill.stayed, drill.spared)),
        ]
        lines.append(_row(SUMMARY, cells))
    return "\n".join(lines)


def _blocks(drill: Drill) -> list[str]:
    lines = []
    plan = drill.plan
    starts = [*range(0, plan.before, plan.block), *range(plan.before, plan.updates, plan.block)]
    for start, end in zip(starts, [*starts[1:], plan.updates], strict=True):
        served = [u for u in drill.served if start <= u.step < end]
        others = [[u for u in path if start <= u.step < end] for path in (drill.stayed, drill.spared)]
        cells = [
            f"{start + 1}-{end}",
            ", ".join(f"{v} {n}" for v, n in Counter(v for u in served for v in u.versions).items()),
            *(
                f"{np.mean([getattr(u, name) for u in served]):.2f}"
                for name in ("accuracy", "spread", "length_correlation")
            ),
            f"{np.mean([u.words for u in served]):.0f}",
            *(f"{np.mean([u.gold for u in path]):.2f}" if path else "" for path in (served, *others)),
        ]
        lines.append(_row(HEADINGS, cells))
    return lines


def _ending(drill: Drill) -> str:
    if drill.watch is None:
        return f"the watch over {drill.hacked} has not ended: it needs more groups"
    groups = f"after {drill.hacked_groups} groups that the policy had scored by it"
    scores = "equal to the last digit" if drill.scores_as_before else "different"
    return (
        f"watch over {drill.hacked}: {drill.watch['outcome']} {groups}: {drill.watch['reason']}\n"
        f"scores of {drill.plan.probed_prompts} probe groups before the drill and now: {scores}\n"
        "no request failed"
    )


def _gold_at_the_end(path: Sequence[Update], drill: Drill) -> float:
    return float(np.mean([u.gold for u in path[-drill.plan.block :]]))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _row(headings: Sequence[tuple[str, int]], cells: Sequence[str]) -> str:
    return " ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, headings, strict=True)).rstrip()
