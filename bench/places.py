"""The folders of the benchmarks: `.bench/` in the checkout, which git ignores."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".bench"
ENVIRONMENTS = WORK / "environments"
MODELS = WORK / "models"

THREADS = len(os.sched_getaffinity(0))  # of every arm; run under taskset for fewer
