"""What the figures depend on: the machine, the packages, the commit. Recorded with the measurements."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from bench.places import ROOT, THREADS


def machine() -> dict[str, Any]:
    """The machine, as JSON."""
    names = [line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 (the user's git)
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    packages = ("torch", "transformers", "tokenizers", "fastapi", "uvicorn")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": THREADS,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "commit": commit.stdout.strip() or None,
    }


def write_record(options: argparse.Namespace, found: Mapping[str, Any]) -> None:
    """Write the options, the machine and what was found to the file `options.out`, if it is given."""
    if options.out:
        settings = {**vars(options), "out": str(options.out)}
        options.out.write_bytes(orjson.dumps({"settings": settings, "machine": machine(), **found}))


def _cpu_info() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
