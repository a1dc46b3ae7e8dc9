"""Every setting of the trainer. No torch."""

from __future__ import annotations

import re
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field, field_validator, model_validator

from metarm.records import Ascent, Precision, Tracker, Trainable
from metarm.runtime.settings import ProcessSettings, RetentionSettings, separated


class LearningSettings(ProcessSettings):
    """The settings of every training run."""

    preferences: Path | None = Field(
        None,
        validation_alias=AliasChoices("METARM_PREFERENCES", "PREFERENCES"),
        description="Labelled pairs in TRL's format: JSONL, JSON.gz, Parquet. Unset: those that the current "
        "version was made of; for the packaged model, the packaged demo pairs.",
    )
    held_out_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of prompts held out of training for the gate. Unset: as of the current version; for "
        "a first one, 0.15.",
    )
    max_held_out: int | None = Field(
        None,
        ge=2,
        description="Most held-out pairs that the gate scores. Unset: as of the current version; for a first "
        "one, 400.",
    )
    model: str | None = Field(
        None,
        description="First version: checkpoint folder or hub id. Unset: the packaged MiniLM.",
    )
    init_head: bool = Field(False, description="Give a bare backbone a new scalar head and fine-tune it.")
    template_date: date | None = Field(
        None,
        description="Date that a chat template is told if it prints one (YYYY-MM-DD). It is recorded in the "
        "first version's manifest, and later versions keep it. Unset: the day on which the first is made.",
    )
    split_special_tokens: bool | None = Field(
        None,
        description="Read control tokens in prompts and responses as ordinary text. Recorded as template_date "
        "is. Unset: no, as transformers and training engines do by default.",
    )

    train_threads: int | None = Field(
        None, ge=1, description="Torch threads of a run. Unset: all cores that this process may use."
    )
    min_preferences: int = Field(64, ge=2, description="Preference pairs that a run needs to start.")

    batch_size: int = Field(16, ge=1, description="n, preference pairs in each update.")
    learning_rate: float = Field(1e-5, gt=0, description="α, AdamW's learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Norm to which the gradient of an update is clipped.")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="Share of the steps with linear warm-up.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="ε, the assumed share of preference labels that are reversed."
    )
    center_rewards_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of mean (r_chosen + r_rejected)², which keeps scores around 0. TRL advises 0.01.",
    )
    trainable: Trainable = Field(
        "full",
        description="What a run changes. full: all parameters. head: only the head. lora: the head and "
        "low-rank adapters of all linear layers of the trunk, which are merged before the version is saved.",
    )
    lora_rank: int = Field(16, ge=1, description="Rank of the adapters of trainable=lora.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the adapters: each is multiplied by alpha ÷ rank.")
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass: less memory, more time.",
    )
    train_precision: Precision = Field(
        "float32",
        description="Precision of matrix multiplications in a run. Weights, gradients, moments and scores are "
        "always float32; bfloat16 is faster on processors that support it.",
    )
    micro_batch_tokens: int = Field(4096, ge=1, description="Tokens whose activations are in memory at once.")
    seed: int = Field(0, ge=0, description="Seed of the batches and of a new head.")
    report_to: list[Tracker] = Field(
        default=[],
        description="Trackers that runs report to: tensorboard, wandb, mlflow, separated by commas. Each needs "
        "the extra of its name.",
    )

    @field_validator("template_date", mode="before")
    @classmethod
    def _as_printed(cls, given: object) -> object:
        if isinstance(given, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", given):
            raise ValueError(f"METARM_TEMPLATE_DATE is {given!r}: give a date such as 2026-01-31")
        return given

    @field_validator("report_to", mode="before")
    @classmethod
    def _named(cls, given: object) -> object:
        names = separated("METARM_REPORT_TO", given) if isinstance(given, str) else given
        return [name for name in names if name not in ("", "none")] if isinstance(names, list) else names

    @field_validator("report_to")
    @classmethod
    def _installed(cls, names: list[Tracker]) -> list[Tracker]:
        for name in names:
            if find_spec(name) is None:
                raise ValueError(f"{name} is not installed: pip install 'metarm-server[{name}]'")
        return list(dict.fromkeys(names))


class TrainerSettings(LearningSettings, RetentionSettings):
    """The background trainer: preferences and logged samples in, a gated new version out."""

    bootstrap_pairs: int = Field(
        1600, ge=2, description="Preference pairs on which the first version is fine-tuned."
    )
    bootstrap_learning_rate: float = Field(5e-5, gt=0, description="Learning rate of that fine-tuning.")

    train_priority: Literal["idle", "low"] = Field(
        "idle",
        description="idle: a run gets the processor time that scoring leaves, possibly none. low: a run always "
        "gets some (niceness 10), and small requests take longer.",
    )
    min_groups: int = Field(
        128, ge=1, description="Logged groups of two or more responses that a run needs to start."
    )
    max_groups: int = Field(2000, ge=1, description="Most groups that a run uses: the newest.")
    ascent: Ascent = Field(
        "conservative",
        description="How an update uses the samples (docs/metarm.md). sgd: exactly Algorithm 1. none: not at "
        "all, the vanilla control. adam, shared_adam, joint, second_order: variants. conservative: samples "
        "must not outscore the chosen responses of the preferences.",
    )
    steps: int = Field(40, ge=1, description="T, updates in each run.")
    meta_batch_size: int = Field(8, ge=1, description="m, sample groups in each update.")
    meta_every: int = Field(
        1,
        ge=1,
        description="Updates per computation of the meta gradient. Updates in between reuse the last one, "
        "which saves time and costs a copy in memory. Not with second_order.",
    )
    responses_per_prompt: int = Field(5, ge=2, description="k, most responses used of each group.")
    ascent_rate: float | None = Field(
        None,
        ge=0,
        description="η, step size of the ascent on J; in joint and conservative, the weight of J or C. Unset, "
        "or for a job that names another ascent: the default of that ascent (docs/metarm.md).",
    )
    time_limit_s: float = Field(
        420, gt=0, description="Time after which a run makes no further steps and goes to the gate."
    )
    gate_tolerance: float = Field(
        0.02, ge=0, le=1, description="Held-out accuracy that a candidate may lose against the current version."
    )
    gate_significance: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Reject any loss of held-out accuracy whose p-value is below this (one-sided sign test "
        "over the pairs on which the two versions differ). 0: never.",
    )
    gate_min_groups: int = Field(
        32,
        ge=1,
        description="Recent sample groups needed to reject; with fewer, their figures are only reported.",
    )
    gate_min_spread_ratio: float = Field(
        0.5,
        ge=0,
        description="Least spread of the candidate's rewards within recent groups ÷ spread on held-out pairs, "
        "as a share of the same ratio of the current version.",
    )
    gate_min_agreement: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Least share of the pairs within recent groups that the candidate orders as the current "
        "version does. Chance gives 0.5.",
    )
    gate_max_scale: float = Field(
        4.0,
        ge=1,
        description="Greatest ratio between the candidate's and the current version's standard deviations of "
        "raw rewards on held-out pairs, in either direction.",
    )
    gate_max_length_correlation: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Greatest correlation of reward and tokens within recent groups, positive or negative, "
        "unless the current version's is greater in the same direction.",
    )
    gate_max_length_rise: float = Field(
        0.3,
        ge=0,
        description="Greatest move of that correlation from the current version's, up or down. A move towards "
        "0 that does not pass it is allowed.",
    )
    cut_over_prepare_s: float = Field(
        60.0, gt=0, description="Time servers have to load a version before a joint cutover is aborted."
    )


class FirstModelSettings(LearningSettings):
    """Train a first reward model from preferences and publish it as the first version of an empty store."""

    learning_rate: float = Field(5e-5, gt=0, description="α, AdamW's learning rate.")
    epochs: float | None = Field(
        None, gt=0, description="Passes over the training pairs. Unset: 1, or --steps."
    )
    steps: int | None = Field(None, ge=1, description="Updates. Replaces --epochs.")
    evaluate_every: int | None = Field(
        None, ge=1, description="Updates between two measurements of held-out accuracy. Unset: five per run."
    )
    curve: Path | None = Field(
        None, description="PNG file for the curves of loss and accuracy (needs matplotlib)."
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps (METARM_EPOCHS, METARM_STEPS) are both set: one gives the other")
        return self
