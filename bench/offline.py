"""Our forward without a server, told what to score on standard input.

`python -m bench.offline CHECKPOINT MAX_TOKENS THREADS`: one JSON line in, {"pairs": [[prompt, response], …]};
one out, {"scores", "wall_s", "cpu_s"}. The texts are encoded before the clock starts. A thread a core, each
with batches of its own: what the service's calibration finds fastest on few cores, and no peer's server does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import orjson

from metarm.model.parallel import score_parallel
from metarm.model.reward_model import load_model, quiet_transformers
from metarm.runtime import process_environment


def main() -> None:
    process_environment.check()
    path, max_tokens, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    quiet_transformers()
    model = load_model(path, max_tokens)
    _answer({"ready": True})
    for line in sys.stdin.buffer:
        groups = [(prompt, [response]) for prompt, response in orjson.loads(line)["pairs"]]
        samples = [encoded[0] for encoded in model.encoder.encode(groups)]
        wall, cpu = time.perf_counter(), time.process_time()
        scores = score_parallel(model, samples, workers=threads).tolist()
        _answer({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "scores": scores})


def _answer(content: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(content) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
