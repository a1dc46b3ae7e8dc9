"""Choose the forward plan: from the settings, else from tuning.json, else by a measurement, recorded there."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from metarm.model.reward_model import DEFAULT_BATCH_TOKENS, RewardModel
from metarm.runtime.cores import usable_cores
from service.scoring.measuring import FIRST_START, Timing, best_plan, measure_plans
from service.scoring.plan import ForwardPlan
from service.settings import ServiceSettings

log = logging.getLogger(__name__)

TUNING_FILE = "tuning.json"  # in the data folder: the measured plan, and the machine and model it is valid for
BATCHES_TO_SORT = 4  # batches in a slice if the route pads: sorting them by length saves padding


def choose_plan(
    model: RewardModel,
    settings: ServiceSettings,
    cores: int | None = None,
    timing: Timing = FIRST_START,
) -> ForwardPlan:
    """The plan for `cores` (default: all that this process may use). Unset settings come from the tuning file
    if it is valid for this machine and model; otherwise they are measured now and written there. A tuning file
    that cannot be read or written is not an error."""
    cores = cores or usable_cores()
    workers = settings.score_workers
    threads = settings.score_threads or max(1, cores // (workers or cores))
    plan = ForwardPlan.of_single_batches(
        workers or max(1, cores // threads), threads, settings.batch_tokens or DEFAULT_BATCH_TOKENS
    )
    if settings.tune and not any((workers, settings.score_threads, settings.batch_tokens)):
        plan = _tuned_plan(model, settings, plan, cores, timing)
    batches = BATCHES_TO_SORT if model.route.pads else 1
    return replace(plan, slice_tokens=settings.slice_tokens or batches * plan.batch_tokens)


def write_plan(file: Path, measured_on: dict[str, Any], plan: ForwardPlan) -> None:
    """Replace the tuning file atomically; logs a warning if that fails."""
    record = {"plan": asdict(plan), "measured_on": measured_on}
    part = file.with_suffix(f".{socket.gethostname()}-{os.getpid()}.part")  # containers share process ids
    try:
        part.write_text(json.dumps(record, indent=2) + "\n")
        part.replace(file)
    except OSError as error:
        log.warning(
            "the forward plan will be measured again at the next start: %s cannot be written: %s", file, error
        )


def fingerprint(model: RewardModel, cores: int) -> dict[str, Any]:
    """The properties of machine and model on which a measurement depends."""
    config = model.network.config.get_text_config()
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": cores,
        "torch": torch.__version__,
        "dtype": str(model.network.dtype),
        "architecture": type(model.network).__name__,
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
    }


def _tuned_plan(
    model: RewardModel, settings: ServiceSettings, default: ForwardPlan, cores: int, timing: Timing
) -> ForwardPlan:
    file = settings.data_dir.absolute() / TUNING_FILE
    measured_on = fingerprint(model, cores)
    plan = _read_plan(file, measured_on)
    if plan is None:
        plan = best_plan(list(measure_plans(model, cores, timing)), default)
        write_plan(file, measured_on, plan)
    return plan


def _read_plan(file: Path, measured_on: dict[str, Any]) -> ForwardPlan | None:
    """The plan in the tuning file, or None without a file, for another fingerprint and, with a warning, for a
    file that cannot be read."""
    try:
        record = json.loads(file.read_text())
        return ForwardPlan(**record["plan"]) if record["measured_on"] == measured_on else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is ignored: %s", file, error)
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
