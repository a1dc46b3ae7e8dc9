"""tuning.json in the data folder: the measured forward plan, and the machine and model it is valid for."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from metarm.model.reward_model import RewardModel
from service.scoring.plan import ForwardPlan

log = logging.getLogger(__name__)

NAME = "tuning.json"


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


def read(file: Path, measured_on: dict[str, Any]) -> ForwardPlan | None:
    """The plan in `file`, or None without a file, for another fingerprint and, with a warning, for a file
    that cannot be read."""
    try:
        record = json.loads(file.read_text())
        return ForwardPlan(**record["plan"]) if record["measured_on"] == measured_on else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is ignored: %s", file, error)
        return None


def write(file: Path, measured_on: dict[str, Any], plan: ForwardPlan) -> None:
    """Replace `file` atomically; logs a warning where that fails."""
    record = {"plan": asdict(plan), "measured_on": measured_on}
    part = file.with_suffix(f".{socket.gethostname()}-{os.getpid()}.part")  # containers share process ids
    try:
        part.write_text(json.dumps(record, indent=2) + "\n")
        part.replace(file)
    except OSError as error:
        log.warning(
            "the forward plan will be measured again at the next start: %s cannot be written: %s", file, error
        )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
