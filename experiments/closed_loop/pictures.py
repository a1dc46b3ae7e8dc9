"""The paper's figures from our runs, as PNG; white behind, so that they read on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.closed_loop import comparisons as c
from experiments.closed_loop.plan import CONTROLS, FIXED, VANILLA
from experiments.closed_loop.records import PROMPT_SETS, ArmRun, Study

COLOURS = ("#1f77b4", "#c2571a", "#2a8f3c", "#8e44ad", "#b8860b", "#c0392b", "#16808a", "#7f8c1f", "#d16ba5")
GREY, BLACK = "#8a8a8a", "#222222"
BINS = 20
SMOOTHED = 3  # policy updates averaged in the line of one seed: a batch has few prompts
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure: `name` is the stem of its file, `says` its caption."""

    name: str
    title: str
    says: str
    png: bytes


def draw_all(study: Study) -> list[Picture]:
    """Every figure the study has runs for."""
    pictures = [_variance(study), _gold(study)]
    if any(r.retrain and r.retrain.curve for run in study.runs for r in run.rounds):
        pictures.append(_curves(study))
    if study.of(VANILLA) and len(_shown(study)) > 2:
        pictures.append(_gaps(study))
    return pictures


def _shown(study: Study) -> list[str]:
    """The arms in figures: fixed, vanilla, the variants; rates and controls are in the tables alone."""
    return [arm for arm in study.arms if arm not in CONTROLS and "×" not in arm]


def _colour(study: Study, arm: str) -> str:
    if arm in (FIXED, VANILLA):
        return GREY if arm == FIXED else BLACK
    variants = [name for name in _shown(study) if name not in (FIXED, VANILLA)]
    return COLOURS[variants.index(arm) % len(COLOURS)]


def _variance(study: Study) -> Picture:
    figure, (absolute, ratio) = _figure(2)
    for arm in _shown(study):
        runs = list(study.of(arm).values())
        per_round = int(study.plan["steps"])
        variances = np.array([_smooth([s.variance for s in run.steps], per_round) for run in runs])
        golds = np.array([_smooth([s.gold_variance for s in run.steps], per_round) for run in runs])
        steps = np.arange(1.0, variances.shape[1] + 1.0)
        _band(absolute, steps, variances, _colour(study, arm), arm)
        _band(ratio, steps, variances / golds, _colour(study, arm), arm)
    absolute.set(title="Var(r(x, y₁) - r(x, y₂)) on the policy's samples", ylabel="variance, log scale")
    ratio.set(title="the same ÷ the variance of gold differences", ylabel="ratio, log scale")
    for axes in (absolute, ratio):
        axes.set_yscale("log")
        axes.set_xlabel("policy updates")
        for boundary in range(1, int(study.plan["rounds"])):
            axes.axvline(boundary * int(study.plan["steps"]) + 0.5, color=GREY, linewidth=0.6, linestyle=":")
    _legend(figure, absolute)
    return _picture(
        figure,
        "figure-1-variance",
        "Figure 1: the reward difference's variance over RL steps",
        "Geometric mean over seeds; band: 16th to 84th percentile of the seeds. Dotted lines: retrains "
        "(none in the arm `fixed`). The right panel divides by the variance of gold: a policy whose responses "
        "become alike would show a flat line there.",
    )


def _gold(study: Study) -> Picture:
    figure, both = _figure(2)
    titles = ("held-out prompts", "families that nothing trains on")
    for axes, prompts, title in zip(both, PROMPT_SETS, titles, strict=True):
        for place, arm in enumerate(_shown(study)):
            runs = list(study.of(arm).values())
            golds = np.array([[c.gold_mean(run, r.round, prompts) for r in run.rounds] for run in runs])
            _mean_with_errors(axes, golds, _colour(study, arm), arm, 0.03 * place)
        axes.set(title=title, xlabel="round", ylabel="gold reward, points")
        axes.set_xticks(range(int(study.plan["rounds"]) + 1))
    _legend(figure, both[0])
    return _picture(
        figure,
        "gold-by-round",
        "Gold reward of the policy by round",
        "Mean over seeds; bars: its standard error. Round 0 is the initial policy.",
    )


def _curves(study: Study) -> Picture:
    arms = [arm for arm in _shown(study) if arm != FIXED]
    figure, panels = _figure(max(1, int(study.plan["rounds"]) - 1), height=3.6, width=3.3)
    for number, axes in enumerate(panels, 1):
        for arm in arms:
            curves = [_change(run, number) for run in study.of(arm).values()]
            kept = [curve for curve in curves if curve]
            if kept:
                steps = [step for step, _ in kept[0]]
                values = np.array([[100 * value for _, value in curve] for curve in kept])
                mean, error = values.mean(axis=0), _error(values)
                colour = _colour(study, arm)
                axes.plot(steps, mean, "o-", color=colour, label=arm, markersize=3, linewidth=1.3)
                axes.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.1, linewidth=0)
        axes.axhline(0.0, color=GREY, linewidth=0.6, linestyle=":")
        axes.set(title=f"retrain after round {number}", xlabel="update")
    panels[0].set_ylabel("held-out accuracy, points\nless the first version's")
    _same_height(panels)
    _legend(figure, panels[0])
    return _picture(
        figure,
        "figure-4-validation",
        "Figure 4: held-out accuracy while retraining",
        "Preference pairs of prompts that never train, accuracy less that of the seed's first version; mean "
        "over seeds, band: its standard error.",
    )


def _gaps(study: Study) -> Picture:
    """|Δr| on the responses of the first round, which all arms share, by each arm's first retrained version."""
    variants = [arm for arm in _shown(study) if arm not in (FIXED, VANILLA)]
    figure, panels = _figure(len(variants), height=3.0, width=3.4)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    before = _histogram(study, VANILLA, edges, after=False)
    vanilla = _histogram(study, VANILLA, edges, after=True)
    for axes, arm in zip(panels, variants, strict=True):
        axes.stairs(before, edges, color=GREY, linestyle="--", label="before the retrain")
        axes.stairs(vanilla, edges, color=BLACK, label=f"after: {VANILLA} (vanilla)", linewidth=1.3)
        own = _histogram(study, arm, edges, after=True)
        axes.stairs(own, edges, color=_colour(study, arm), fill=True, alpha=0.35)
        axes.stairs(own, edges, color=_colour(study, arm), label=f"after: {arm}", linewidth=1.3)
        axes.set(title=arm, xlabel="|Δr|, min-max normalised")
        axes.legend(frameon=False, fontsize=8)
        axes.set_ylabel("share of pairs")
    _same_height(panels)
    return _picture(
        figure,
        "figure-5-differences",
        "Figure 5: |Δr| on shifted responses",
        "Held-out prompts, the policy after round 1 (the same responses in every arm), scored before and after "
        "the first retrain; each seed's differences are min-max normalised by themselves, then averaged.",
    )


def _histogram(study: Study, arm: str, edges: FloatArray, *, after: bool) -> FloatArray:
    """Shares by bin, (BINS,), mean over seeds."""
    shares = []
    for run in study.of(arm).values():
        of_set = run.rounds[1].sets["in"]
        figures = of_set.after if after and of_set.after is not None else of_set.before
        gaps = np.array(figures.gaps)
        normalised = (gaps - gaps.min()) / (np.ptp(gaps) or 1.0)
        shares.append(np.histogram(normalised, edges)[0] / len(gaps))
    return np.asarray(np.mean(shares, axis=0))


def _change(run: ArmRun, round_: int) -> list[tuple[int, float]]:
    """(update, held-out accuracy less the first version's) during the retrain after a round."""
    retrains = {
        record.round: record.retrain for record in run.rounds if record.retrain and record.retrain.curve
    }
    if round_ not in retrains or 1 not in retrains:
        return []
    first = retrains[1].curve[0][1]
    return [(step, value - first) for step, value in retrains[round_].curve]


def _band(axes: Axes, steps: FloatArray, values: FloatArray, colour: str, label: str) -> None:
    """Geometric mean of (seeds, steps) as a line; the middle two thirds of the seeds as a band."""
    logs = np.log(np.maximum(values, 1e-8))
    axes.plot(steps, np.exp(logs.mean(axis=0)), color=colour, label=label, linewidth=1.5)
    low, high = np.exp(np.percentile(logs, [16, 84], axis=0))
    axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)


def _mean_with_errors(axes: Axes, values: FloatArray, colour: str, label: str, aside: float) -> None:
    """(seeds, rounds) as a line, a little `aside`, so that no arm's bars hide another's."""
    rounds = np.arange(values.shape[1]) + aside
    axes.errorbar(
        rounds,
        values.mean(axis=0),
        yerr=_error(values),
        fmt="o-",
        color=colour,
        capsize=2,
        label=label,
        markersize=4,
    )


def _error(values: FloatArray) -> FloatArray:
    """The standard error over seeds, 0 for a single one."""
    seeds = len(values)
    if seeds == 1:
        return np.zeros(values.shape[1])
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(seeds))


def _smooth(values: Sequence[float], per_round: int) -> FloatArray:
    """Mean over SMOOTHED updates around each, fewer at the ends of a round: never across a retrain."""
    rounds = np.asarray(values, dtype=np.float64).reshape(-1, per_round)
    window = np.ones(SMOOTHED)
    counts = np.convolve(np.ones(per_round), window)[SMOOTHED // 2 :][:per_round]
    sums = [np.convolve(row, window)[SMOOTHED // 2 :][:per_round] for row in rounds]
    return np.concatenate([row / counts for row in sums])


def _figure(panels: int, *, height: float = 4.0, width: float = 5.6) -> tuple[Figure, list[Axes]]:
    """`panels` axes in rows of up to four, each `width` × `height` inches."""
    columns = min(panels, 4)
    rows = -(-panels // columns)
    size = (max(columns * width, 6.0), rows * height)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def _same_height(panels: Sequence[Axes]) -> None:
    """One scale for all, wide enough for each."""
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _legend(figure: Figure, axes: Axes) -> None:
    """One for all panels, below them."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), int(figure.get_figwidth() / 1.5))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _picture(figure: Figure, name: str, title: str, says: str) -> Picture:
    data = BytesIO()
    figure.savefig(data, format="png", dpi=130)
    return Picture(name, title, says, data.getvalue())
