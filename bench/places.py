"""Where the benchmarks keep what they make: `.bench/` beside the sources, never under version control."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".bench"
ENVIRONMENTS = WORK / "environments"
MODELS = WORK / "models"

THREADS = len(os.sched_getaffinity(0))  # every arm gets these cores; run under taskset for fewer
