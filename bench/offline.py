"""Our forward without a server: a worker process (bench/worker.py).

`python -m bench.offline CHECKPOINT MAX_TOKENS THREADS` reads lines {"pairs": [[prompt, response], …]} and
answers each with {"scores", "wall_s", "cpu_s"}. Texts are encoded before the clock starts. One thread per core
computes batches of its own, as the service's measured forward plan does on few cores; no peer's server does
this.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from bench import worker
from metarm.model.parallel import score_parallel
from metarm.model.reward_model import load_model, quiet_transformers
from metarm.runtime import process_environment


def main() -> None:
    process_environment.check()
    path, max_tokens, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    quiet_transformers()
    model = load_model(path, max_tokens)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        groups = [(prompt, [response]) for prompt, response in question["pairs"]]
        samples = [encoded[0] for encoded in model.encoder.encode(groups)]
        wall, cpu = time.perf_counter(), time.process_time()
        scores = score_parallel(model, samples, workers=threads).tolist()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "scores": scores}

    worker.serve(answer)


if __name__ == "__main__":
    main()
