"""sentence-transformers' CrossEncoder.predict, offline: it sorts by length and pads batch by batch."""

from __future__ import annotations

from bench.arms import Setting, WorkerPlan
from bench.models import Kind
from bench.peers.environment import PLAIN
from bench.places import THREADS

# Sorted by length, fours are its best on CPU (texts/s: 32 one by one, 42 in fours, 22 in 64s); 32 its default.
BEST_BATCH: dict[Kind, int] = {"encoder": 4, "causal": 4}
USUAL_BATCH = 32


def plan(setting: Setting) -> WorkerPlan:
    PLAIN.install()
    options = {
        "--model": str(setting.checkpoint.path),
        "--max-tokens": str(setting.checkpoint.max_tokens),
        "--batch-size": str(setting.batch_size(BEST_BATCH, USUAL_BATCH)),
        "--threads": str(THREADS),
    }
    named = [part for option in options.items() for part in option]
    command = [str(PLAIN.python), "-m", "bench.peers.programs.cross_encoder", *named]
    return WorkerPlan(command, setting.folder / "cross-encoder", {})
