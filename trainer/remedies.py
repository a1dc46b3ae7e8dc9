"""What to do about an objection of the gate: which option of POST /retrain or which setting to change, and in
which direction. Pure, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

Cause = Literal[
    "not_finite",
    "accuracy",
    "significance",
    "constant",
    "scale",
    "spread",
    "agreement",
    "length",
    "length_move",
]
SMOOTHING = 0.1  # a usual label_smoothing: it bounds the differences that lower the loss
BY_CHANCE = 0.05  # a p-value above this
FEW = 2  # times gate_min_groups: below this a figure of recent samples is uncertain


def remedy(
    cause: Cause,
    figures: Mapping[str, float | None],
    thresholds: Mapping[str, float],
    options: Mapping[str, Any],
) -> str:
    """One sentence or two. `options` are those of the run, whose values the text starts from, with the updates
    that were made as `steps`; without them it gives the directions alone."""
    return ". ".join(_sentences(cause, figures, thresholds, options))


def _sentences(
    cause: Cause,
    figures: Mapping[str, float | None],
    thresholds: Mapping[str, float],
    options: Mapping[str, Any],
) -> Iterator[str]:
    match cause:
        case "not_finite":
            yield _retrain(*_gentler(options, 0.1), *_fewer_samples(options), *_precise(options))
        case "constant":
            yield _retrain(*_gentler(options, 0.1), *_fewer_samples(options), *_off(options))
        case "accuracy":
            yield _retrain(*_gentler(options), *_fewer_samples(options))
            chance = _of(figures, "loss_by_chance")
            if chance > BY_CHANCE:
                pairs = _of(figures, "held_out_pairs")
                yield (
                    f"On {pairs:.0f} held-out pairs this loss may be chance (p = {chance:.2g}): label more "
                    "pairs (METARM_PREFERENCES)"
                )
            yield _accepting("gate_tolerance", _up(-_of(figures, "accuracy_change")))
        case "significance":
            yield _retrain(*_gentler(options), *_fewer_samples(options))
            yield _accepting("gate_significance", _down(_of(figures, "loss_by_chance")))
        case "scale":
            yield from _of_scale(_of(figures, "scale"), options)
        case "spread":
            yield _retrain(*_fewer_samples(options), *_gentler(options))
            yield from _few_groups(figures, thresholds)
            yield _accepting("gate_min_spread_ratio", _down(_of(figures, "spread_to_parent")))
        case "agreement":
            yield _retrain(*_gentler(options), *_fewer_samples(options))
            yield "Check that METARM_PREFERENCES does not exchange chosen and rejected"
            yield from _few_groups(figures, thresholds)
            yield _accepting("gate_min_agreement", _down(_of(figures, "agreement")))
        case "length" | "length_move":
            yield from _of_length(cause, figures, thresholds, options)


def _of_scale(scale: float, options: Mapping[str, Any]) -> Iterator[str]:
    if scale > 1:
        smoothing = options.get("label_smoothing", 0.0)
        bounded = [_changed("label_smoothing", smoothing, SMOOTHING)] if smoothing < SMOOTHING else []
        yield _retrain(*_gentler(options), *bounded)
        yield (
            "A first version whose head is new separates almost nothing: train it longer (metarm train). "
            + _accepting("gate_max_scale", _up(scale))
        )
    else:
        yield _retrain(*_gentler(options), *_fewer_samples(options), *_off(options))
        yield _accepting("gate_max_scale", _up(1 / scale))


def _of_length(
    cause: Cause,
    figures: Mapping[str, float | None],
    thresholds: Mapping[str, float],
    options: Mapping[str, Any],
) -> Iterator[str]:
    length, before = _of(figures, "length_correlation"), figures["parent_length_correlation"] or 0.0
    preferred, wanted = ("longer", "shorter") if length > before else ("shorter", "longer")
    yield _retrain(*_gentler(options), *_fewer_samples(options))
    yield f"It prefers {preferred} responses more: add preferences whose {wanted} response is chosen"
    yield from _few_groups(figures, thresholds)
    if cause == "length":
        yield _accepting("gate_max_length_correlation", _up(abs(length)))
    else:
        yield _accepting("gate_max_length_rise", _up(abs(length - before)))


def _retrain(*changes: str) -> str:
    return f"Retrain with {', or '.join(changes)}"


def _gentler(options: Mapping[str, Any], factor: float = 0.5) -> Iterator[str]:
    """Smaller or fewer updates."""
    rate, steps = options.get("learning_rate"), options.get("steps")
    yield "a lower learning_rate" if rate is None else _changed("learning_rate", rate, rate * factor)
    if steps is None:
        yield "fewer steps"
    elif steps > 1:
        yield _changed("steps", steps, max(1, math.floor(steps * factor)))


def _fewer_samples(options: Mapping[str, Any]) -> Iterator[str]:
    """Less influence of the samples; nothing for a run that used none."""
    ascent, rate = options.get("ascent"), options.get("ascent_rate")
    if ascent == "none":
        return
    if rate is None:
        yield "a lower ascent_rate"
    elif rate > 0:
        yield _changed("ascent_rate", rate, rate / 2)
    yield "ascent none" if ascent is None else f"ascent none instead of {ascent}"


def _precise(options: Mapping[str, Any]) -> Iterator[str]:
    if options.get("train_precision") == "bfloat16":
        yield "train_precision float32 instead of bfloat16"


def _off(options: Mapping[str, Any]) -> Iterator[str]:
    """Without the parts of the loss that pull rewards together."""
    for name in ("center_rewards_coefficient", "label_smoothing"):
        if options.get(name, 0.0) > 0:
            yield _changed(name, options[name], 0)


def _few_groups(figures: Mapping[str, float | None], thresholds: Mapping[str, float]) -> Iterator[str]:
    groups = _of(figures, "recent_groups")
    if groups < FEW * thresholds["gate_min_groups"]:
        yield f"It is measured on {groups:.0f} groups only: log more samples before the next run"


def _changed(name: str, before: float, after: float) -> str:
    return f"{name} {after:.3g} instead of {before:.3g}"


def _accepting(threshold: str, value: float) -> str:
    return f"The trainer's METARM_{threshold.upper()}={value:.12g} would end this objection"


def _up(value: float) -> float:
    """A thousandth that is not below `value`."""
    return math.ceil(value * 1000) / 1000


def _down(value: float) -> float:
    return math.floor(value * 1000) / 1000


def _of(figures: Mapping[str, float | None], name: str) -> float:
    value = figures[name]
    assert value is not None, name  # noqa: S101 (an objection comes from a figure that is defined)
    return value
