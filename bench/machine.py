"""What figures depend on: the machine, the packages, the commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from bench.places import ROOT, THREADS


def machine() -> dict[str, Any]:
    """For a heading or a JSON."""
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


def _cpu_info() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
