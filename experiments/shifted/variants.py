"""The rows that are compared: each ascent at one rate, its controls, and rows without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from metarm.records import ASCENT_RATES, Ascent
from trainer.batches import EncodedGroup

VANILLA: Final = "none"  # the row that all others are compared with
FIRST = "version 1"  # the model that all variants continue from
LONGER = "the longer wins"
AVERAGE = "average"  # of the weights of VANILLA and AVERAGED
AVERAGED = "joint"

# the trainer's own η, except for the literal update: at .1 its effect is too small to be seen here
RATES: dict[Ascent, float] = {**ASCENT_RATES, "sgd": 1.0, "second_order": 1.0}
META_BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to continue from version 1. `across_prompts`: a control whose groups mix prompts."""

    name: str
    ascent: Ascent
    rate: float
    meta_batch_size: int = META_BATCH_SIZE
    meta_every: int = 1
    across_prompts: bool = False


TRAINED = {
    variant.name: variant
    for variant in (
        *(Variant(ascent, ascent, rate) for ascent, rate in RATES.items() if ascent != VANILLA),
        Variant("sgd_descent", "sgd", -RATES["sgd"]),
        Variant("joint_m4", "joint", RATES["joint"], meta_batch_size=4),
        Variant("joint_stale", "joint", RATES["joint"], meta_every=4),
        Variant("joint_across_prompts", "joint", RATES["joint"], across_prompts=True),
        Variant("conservative_m4", "conservative", RATES["conservative"], meta_batch_size=4),
        Variant("conservative_stale", "conservative", RATES["conservative"], meta_every=4),
    )
}
NAMES = (VANILLA, *TRAINED, AVERAGE)

CHEAPER = ("joint_m4", "joint_stale", "conservative_m4", "conservative_stale")  # meta gradients

CONTROLS = {
    "sgd_descent": "sgd at -η",
    "joint_m4": "joint with 4 groups an update",
    "joint_stale": "joint with a meta gradient every fourth update, which the next three reuse",
    "joint_across_prompts": "joint, the responses of a group taken from different prompts",
    "conservative_m4": "conservative with 4 groups an update",
    "conservative_stale": "conservative with a meta gradient every fourth update",
    AVERAGE: f"mean of the weights of {VANILLA} and {AVERAGED}",
}


def trained(names: Sequence[str]) -> list[Variant]:
    """The runs that the rows `names` need, in addition to VANILLA."""
    wanted = {*names, AVERAGED} if AVERAGE in names else {*names}
    return [variant for name, variant in TRAINED.items() if name in wanted]


def across_prompts(groups: Sequence[EncodedGroup]) -> list[EncodedGroup]:
    """As many groups from the same responses. No two responses of a group answer the same prompt, if groups of
    one prompt are at least a group's size apart in `groups`."""
    count = len(groups)
    return [
        EncodedGroup(
            group.id,
            [groups[(place + column) % count].responses[column] for column in range(len(group.responses))],
        )
        for place, group in enumerate(groups)
    ]
