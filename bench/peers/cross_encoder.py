"""sentence-transformers' CrossEncoder.predict, offline: it sorts by length and pads each batch."""

from __future__ import annotations

from bench.arms import Setting, WorkerPlan
from bench.models import Kind
from bench.peers.environment import PLAIN
from bench.places import THREADS

# Batches of 4 are the fastest on CPU (texts/s: 32 with 1, 42 with 4, 22 with 64); the default is 32.
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
