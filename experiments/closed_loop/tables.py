"""A study as plain text: the premise, the answers, every arm against vanilla, wins by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from experiments.closed_loop import comparisons as c
from experiments.closed_loop.claims import claims
from experiments.closed_loop.intervals import FEWEST_SEEDS, Interval
from experiments.closed_loop.plan import FIXED, VANILLA
from experiments.closed_loop.records import ArmRun, Study

OPPONENTS = ("initial", "fixed", "vanilla", "best of n")  # of the table of wins, in its order


def summary(study: Study) -> str:
    """All tables, one after another."""
    tables = [premise_table(study), claims_table(study), arms_table(study), wins_table(study)]
    return "\n\n".join(table for table in tables if table)


def premise_table(study: Study) -> str:
    """By round: what optimisation does to the policy, and to the figures of the version it is trained on."""
    lines = [
        "held-out prompts, the version the policy was trained on; means over seeds",
        f"{'arm':<20}{'round':>5}{'KL':>7}{'gold':>7}{'Var(Δgold)':>11}{'Var(Δr)':>9}{'accuracy':>9}"
        f"{'words':>7}{'gold, other families':>22}",
    ]
    for arm in (FIXED, VANILLA):
        runs = list(study.of(arm).values())
        for number, rounds in enumerate(zip(*(run.rounds for run in runs), strict=True)):
            sets = [record.sets["in"] for record in rounds]
            figures = (
                (7, 2, [record.kl for record in rounds]),
                (7, 2, [float(np.mean(s.gold)) for s in sets]),
                (11, 2, [s.gold_variance for s in sets]),
                (9, 3, [s.before.variance for s in sets]),
                (9, 3, [s.before.accuracy for s in sets]),
                (7, 0, [s.length_mean for s in sets]),
                (22, 2, [float(np.mean(record.sets["out"].gold)) for record in rounds]),
            )
            cells = "".join(f"{np.mean(values):>{width}.{digits}f}" for width, digits, values in figures)
            lines.append(f"{arm:<20}{number:>5}{cells}")
    return "\n".join(lines)


def claims_table(study: Study) -> str:
    """One line a claim and arm: the answer, and the figures it rests on."""
    seeds = len(study.seeds)
    lines = [f"claims: 95% bootstrap intervals over {seeds} seeds, paired"]
    if seeds < FEWEST_SEEDS:
        lines.append(
            f"({seeds} seeds answer nothing: with fewer than {FEWEST_SEEDS} every answer is 'unclear')"
        )
    for _, same in groupby(claims(study), key=lambda claim: claim.name):
        found = list(same)
        lines.append(f"{found[0].name}  {found[0].statement}")
        for claim in found:
            for number, part in enumerate(claim.parts):
                head = f"{claim.arm:<20}{claim.answer:<9}" if number == 0 else " " * 29
                lines.append(f"    {head}{part.figure!s:<26}{part.says}")
    return "\n".join(lines)


def arms_table(study: Study) -> str:
    """`arm_rows` as text; empty without a vanilla arm to compare with."""
    heads, rows = arm_rows(study)
    if not rows:
        return ""
    widths = [20, *(max(len(head), 25) for head in heads[1:-1]), 10]
    lines = ["every retraining arm less vanilla; of the spread ratio, the quotient"]
    for row in (heads, *rows):
        name, *cells = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append(f"{row[0]:<{len(name)}}" + "".join(cells))
    return "\n".join(lines)


def arm_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Every retraining arm against vanilla, paired, and its rejected candidates: heads, and a row an arm."""
    vanilla = study.of(VANILLA)
    last = c.last_round(study)
    columns: list[tuple[str, Callable[[str], Interval]]] = [
        ("spread ratio ÷", lambda arm: c.paired_log(study.of(arm), vanilla, c.spread_to_first)),
        ("shifted accuracy", lambda arm: c.paired(study.of(arm), vanilla, c.shifted_accuracy)),
        ("the same, round 1", lambda arm: c.paired(study.of(arm), vanilla, c.first_shifted_accuracy)),
        ("initial accuracy", lambda arm: c.paired(study.of(arm), vanilla, c.initial_accuracy)),
        ("held-out accuracy", lambda arm: c.paired(study.of(arm), vanilla, c.held_out_accuracy)),
        ("final gold", lambda arm: c.paired(study.of(arm), vanilla, lambda run: c.gold_mean(run, last))),
        ("best-round gold", lambda arm: best_gold(study.of(arm), vanilla)),
        ("wins - losses, final", lambda arm: _margin(study, arm, last)),
    ]
    rows = []
    for arm in c.retrained_arms(study) if vanilla else []:
        if arm == VANILLA:
            continue
        refused = sum(c.rejected(run) for run in study.of(arm).values())
        rows.append([arm, *(str(figure(arm)) for _, figure in columns), str(refused)])
    return ["arm", *(name for name, _ in columns), "rejected"], rows


def best_gold(runs: dict[int, ArmRun], vanilla: dict[int, ArmRun]) -> Interval:
    """Gold at each arm's own best round (chosen on the other seeds), less vanilla's at its own."""
    ours, theirs = c.peak_rounds(runs), c.peak_rounds(vanilla)
    return c.by_seed(
        runs, vanilla, lambda s: c.gold_mean(runs[s], ours[s]) - c.gold_mean(vanilla[s], theirs[s])
    )


def win_rows(study: Study) -> list[tuple[str, int, dict[str, c.Outcome]]]:
    """(arm, round, opponent → outcome): means over the seeds that have both. Best of n comes first, as an
    arm without rounds."""
    rows = []
    fixed, vanilla = study.of(FIXED), study.of(VANILLA)
    if fixed:
        best = mean_outcome([c.best_of_n_against_initial(run) for run in fixed.values()])
        rows.append((f"best of {study.plan['best_of']}", 0, {"initial": best}))
    for arm in study.arms:
        runs = study.of(arm)
        for round_ in range(1, c.last_round(study) + 1):
            outcomes = {"initial": [c.against_initial(run, round_) for run in runs.values()]}
            if arm != FIXED:
                outcomes["fixed"] = [c.against(runs[s], fixed[s], round_) for s in runs if s in fixed]
            if arm not in (FIXED, VANILLA):
                outcomes["vanilla"] = [c.against(runs[s], vanilla[s], round_) for s in runs if s in vanilla]
            outcomes["best of n"] = [c.against_best_of_n(runs[s], fixed[s], round_) for s in runs if s in fixed]
            rows.append((arm, round_, {name: mean_outcome(found) for name, found in outcomes.items() if found}))
    return rows


def wins_table(study: Study) -> str:
    """Win/tie/lose in percent, by round and opponent."""
    n = study.plan["best_of"]
    lines = [
        f"win/tie/lose % by gold on the same held-out prompts; a tie is within {c.TIE_BAND} points; "
        f"best of n: of {n} initial responses, by the first version",
        f"{'arm':<20}{'round':>5}" + "".join(f"{'vs ' + name:>14}" for name in OPPONENTS),
    ]
    for arm, round_, outcomes in win_rows(study):
        cells = "".join(f"{percent(outcomes.get(name)):>14}" for name in OPPONENTS)
        lines.append(f"{arm:<20}{round_:>5}{cells}")
    return "\n".join(lines)


def mean_outcome(outcomes: Sequence[c.Outcome]) -> c.Outcome:
    win, tie, lose = (float(np.mean([getattr(o, name) for o in outcomes])) for name in ("win", "tie", "lose"))
    return c.Outcome(win, tie, lose)


def percent(outcome: c.Outcome | None) -> str:
    """`65/30/5`, or `-`."""
    if outcome is None:
        return "-"
    return f"{100 * outcome.win:.0f}/{100 * outcome.tie:.0f}/{100 * outcome.lose:.0f}"


def _margin(study: Study, arm: str, round_: int) -> Interval:
    runs, vanilla = study.of(arm), study.of(VANILLA)
    return c.by_seed(runs, vanilla, lambda seed: c.against(runs[seed], vanilla[seed], round_).margin)
