"""The record of a run: plain figures, written and read as JSON. No torch.

Groups are one prompt's k responses; matrices are (prompts, k). `in` are held-out prompts of the
families the policy trains on, `out` prompts of families that nothing trains on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from metarm.errors import ConfigurationError

DIGITS = 5  # kept of a figure
VARIANCE_DIGITS = 9  # kept of a variance: a reward model may end up telling nothing apart
PromptSet = Literal["in", "out"]
PROMPT_SETS: tuple[PromptSet, ...] = ("in", "out")


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """The figures of one version on one set of responses. `gaps` are |Δr| of disjoint pairs within groups."""

    version: str
    score_mean: float
    variance: float  # Var(r(y1) - r(y2)) within a prompt
    accuracy: float  # pairs ranked as gold ranks them
    length_correlation: float
    gaps: list[float]

    @property
    def spread(self) -> float:
        """The standard deviation of the score difference of two responses to a prompt."""
        return float(self.variance**0.5)


@dataclass(frozen=True, slots=True)
class SetRecord:
    """Fresh responses of the policy to one prompt set: their gold, and the figures of versions on them.

    `before` is by the version the policy was trained on; `after` and `initial_after` are by the version
    that serves after the round's retrain, on these responses and on the initial policy's.
    """

    gold: list[list[float]]
    gold_variance: float
    length_mean: float
    distinct_share: float  # different texts among all
    before: VersionFigures
    after: VersionFigures | None
    initial_after: VersionFigures | None


@dataclass(frozen=True, slots=True)
class RetrainRecord:
    """How a retrain ended. After a rejected candidate its parent continues to score, as on the server.

    The gate's figures are None where scores were not finite, and for a run that failed. `curve` holds
    (step, held-out accuracy) during training; it is empty for a server, which does not report it.
    """

    candidate: str
    accepted: bool
    reasons: list[str]
    parent_accuracy: float | None
    held_out_accuracy: float | None
    parent_score_std: float | None
    score_std: float | None
    curve: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """The policy at the end of a round (0: the initial one), and the retrain that followed, if any."""

    round: int
    kl: float  # from the initial policy, nats, exact
    entropy: float  # of a draft, nats, exact
    sets: dict[PromptSet, SetRecord]
    retrain: RetrainRecord | None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One policy update: its own batch, by the version it is trained on."""

    step: int
    variance: float
    gold_variance: float
    score_mean: float
    gold_mean: float


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One seed, one arm."""

    seed: int
    arm: str
    rounds: list[RoundRecord]
    steps: list[StepRecord]
    best_of_gold: list[list[float]]  # (prompts, tries) on `in`, chosen by the first version; fixed arm only
    seconds: float


@dataclass(frozen=True, slots=True)
class Study:
    """All runs of one plan. `arms` are the options each arm retrained with."""

    mode: Literal["in-process", "served"]
    code_version: str
    plan: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    runs: list[ArmRun]

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    def of(self, arm: str) -> dict[int, ArmRun]:
        """The arm's runs by seed."""
        return {run.seed: run for run in self.runs if run.arm == arm}


Record = TypeVar("Record")
_RUN, _STUDY = TypeAdapter(ArmRun), TypeAdapter(Study)


def write_run(run: ArmRun, path: Path) -> None:
    _write(path, run)


def read_run(path: Path) -> ArmRun:
    """Raises ConfigurationError naming the file where it is not a run."""
    return _read(path, _RUN)


def write_study(study: Study, path: Path) -> None:
    _write(path, study)


def read_study(path: Path) -> Study:
    """Raises ConfigurationError naming the file where it is not a study."""
    return _read(path, _STUDY)


def _write(path: Path, record: object) -> None:
    """Written under another name, then renamed: a file of this name is always complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(orjson.dumps(record))
    aside.rename(path)


def _read(path: Path, kind: TypeAdapter[Record]) -> Record:
    try:
        return kind.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigurationError(
            f"{path} is not what experiments/simulate writes: {error.errors()[0]}"
        ) from error
