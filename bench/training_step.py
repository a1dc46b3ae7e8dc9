"""The trainer's own step on 16 pairs, packed and padded, in turn.

`python -m bench.training_step CHECKPOINT REPEATS` prints the seconds as one JSON line. Padded: the batch padded
to its longest sequence, in one forward, as training frameworks do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from bench.models import checkpoint
from bench.places import ROOT, THREADS
from bench.processes import clean_environment
from bench.workload import GeneratedPairs, Load
from metarm.model.encoding import Encoded
from metarm.model.forward import PrefixStore
from metarm.model.forward.padded import Padded
from metarm.model.reward_model import load_model, quiet_transformers
from metarm.runtime import process_environment
from trainer.batches import EncodedPair, backward_preference

PAIRS = 16
MICRO_BATCH_TOKENS = 4096  # the trainer's default


class WholeBatch(Padded):
    """One padded forward of all sequences of a call."""

    def scores(self, samples: list[Encoded], batch_tokens: int, prefixes: PrefixStore | None) -> Tensor:
        del batch_tokens
        return super().scores(samples, sys.maxsize, prefixes)


def measure(repeats: int) -> tuple[list[float], list[float]]:
    """The seconds of each packed and of each padded step, measured in a process of its own."""
    command = [sys.executable, "-m", "bench.training_step", str(checkpoint("encoder").path), str(repeats)]
    environment = clean_environment(process_environment.REQUIRED)
    done = subprocess.run(  # noqa: S603 (ourselves)
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the training step failed: {done.stderr.strip()[-500:]}")
    found = json.loads(done.stdout)
    return found["packed"], found["padded"]


def main() -> None:
    path, repeats = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(THREADS)
    quiet_transformers()
    model = load_model(path, 512)
    requests = GeneratedPairs(model.encoder).requests(Load("step", "encoder", 1, 2, PAIRS), "step")
    encoded = model.encoder.encode([(request.prompt, request.responses) for request in requests])
    pairs = [EncodedPair(chosen, rejected, 0.0) for chosen, rejected in encoded]
    routes = {"packed": (model.route, MICRO_BATCH_TOKENS), "padded": (WholeBatch(model.network), sys.maxsize)}
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(repeats):
        for name, (route, micro_tokens) in routes.items():
            model.route = route
            model.network.zero_grad(set_to_none=True)
            started = time.perf_counter()
            backward_preference(model, pairs, micro_tokens)
            seconds[name].append(time.perf_counter() - started)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
