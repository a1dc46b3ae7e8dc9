"""The plan of a study: rounds, pressure on the policy, first reward model, and arms. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from metarm.errors import ConfigurationError
from metarm.records import ASCENT_RATES, Ascent
from simulation.optimise import Pressure


@dataclass(frozen=True, slots=True)
class FirstModelPlan:
    """The reward model every arm starts from: a BERT of this size, trained from scratch."""

    pairs: int = 2000  # labelled, of which `held_out_share` never train
    noise: float = 0.6  # of the labels, in gold points
    writers: int = 4  # initial policies, slightly different, that write the pairs
    vocabulary: int = 1500  # words, at most
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    intermediate: int = 128
    positions: int = 256
    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """One study. A round is `steps` policy updates on `prompts` prompts × `responses` responses each, and
    then, in the arms that retrain, one retrain on the samples of that round."""

    rounds: int = 5
    steps: int = 8
    prompts: int = 12
    responses: int = 6
    measured_prompts: int = 64  # held out, of the families of the training prompts
    measured_shifted_families: int = 32  # held-out prompts of families that nothing trains on
    measured_responses: int = 4
    best_of: int = 16
    best_of_tries: int = 3  # independent choices a prompt
    curve_every: int = 8  # retrain steps between two held-out accuracies
    pressure: Pressure = field(default_factory=lambda: Pressure(learning_rate=0.25))
    first_model: FirstModelPlan = field(default_factory=FirstModelPlan)
    retrain: Mapping[str, Any] = field(
        default_factory=lambda: {
            "steps": 24,
            "batch_size": 16,
            "meta_batch_size": 5,
            "responses_per_prompt": 5,
            "learning_rate": 3e-4,
        }
    )
    trainer: Mapping[str, Any] = field(
        default_factory=lambda: {
            "max_tokens": 256,
            "held_out_share": 0.18,
            "max_held_out": 400,
            "min_groups": 8,
            "gate_tolerance": 0.02,
            "micro_batch_tokens": 8192,
            "time_limit_s": 3600.0,  # a run cut short by a busy machine would not be the same run
            "train_threads": 1,
        }
    )


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to treat the reward model between rounds.

    `retrain` are options of POST /retrain over the plan's own; None: never retrained. `samples`: whose
    responses the meta-set holds, the policy's of the round that just ended or the initial policy's.
    """

    name: str
    retrain: Mapping[str, Any] | None
    samples: Literal["policy", "initial"] = "policy"


FIXED, VANILLA = "fixed", "none"
SWEPT: Ascent = "sgd"  # the variant whose rate is varied: the paper's letter
CONTROLLED: Ascent = "conservative"  # the one that also gets a meta-set of the initial policy
RATE_FACTORS: Sequence[float] = (0.2, 1.0, 2.0)
CONTROLS = ("negative", "in-distribution", "ascent-only", "small meta", "stale meta")


def swept_name(factor: float) -> str:
    """The arm of the swept variant whose rate is `factor` times its own."""
    return SWEPT if factor == 1.0 else f"{SWEPT} ×{factor:g}"


def all_arms() -> dict[str, Arm]:
    """Every arm by name, in the order of the tables."""
    rates = ASCENT_RATES  # by a rule, on other seeds than those reported (docs/evidence/closed_loop.md)
    arms = [Arm(FIXED, None), Arm(VANILLA, {"ascent": "none"})]
    arms += [Arm(a, {"ascent": a, "ascent_rate": rate}) for a, rate in rates.items() if a != VANILLA]
    arms += [
        Arm(swept_name(factor), {"ascent": SWEPT, "ascent_rate": factor * rates[SWEPT]})
        for factor in RATE_FACTORS
        if factor != 1.0
    ]
    arms += [
        Arm("negative", {"ascent": "sgd", "ascent_rate": -rates["sgd"]}),
        Arm("in-distribution", {"ascent": CONTROLLED, "ascent_rate": rates[CONTROLLED]}, samples="initial"),
        # the joint form at a weight that leaves nothing of L: the gradient is clipped, Adam knows no scale
        Arm("ascent-only", {"ascent": "joint", "ascent_rate": 1000.0}),
        # a cheaper meta gradient: of fewer groups (five in the plan), or computed in every fourth update
        Arm("small meta", {"ascent": CONTROLLED, "ascent_rate": rates[CONTROLLED], "meta_batch_size": 1}),
        Arm("stale meta", {"ascent": CONTROLLED, "ascent_rate": rates[CONTROLLED], "meta_every": 4}),
    ]
    return {arm.name: arm for arm in arms}


def arm_named(name: str) -> Arm:
    """A known arm, or `ascent@rate`: any ascent of POST /retrain at any rate. Raises ConfigurationError."""
    known = all_arms()
    if name in known:
        return known[name]
    ascent, _, rate = name.partition("@")
    try:
        if ascent in get_args(Ascent):
            return Arm(name, {"ascent": ascent, "ascent_rate": float(rate)})
    except ValueError as error:
        raise ConfigurationError(f"arm {name!r}: {rate!r} is not a rate") from error
    raise ConfigurationError(f"there is no arm {name!r}; there are ASCENT@RATE and {', '.join(known)}")


QUICK_ARMS = (FIXED, VANILLA, "sgd", "joint", "conservative")
