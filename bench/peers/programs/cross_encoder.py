"""sentence-transformers' CrossEncoder.predict as a worker process, like bench/offline.py.

It reads lines {"pairs": [[prompt, response], …]} and answers each with {"scores", "wall_s", "cpu_s"}.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from sentence_transformers import CrossEncoder

from bench.peers.programs.plain_model import model_options


def main() -> None:
    given = model_options().parse_args()
    torch.set_num_threads(given.threads)
    model = CrossEncoder(given.model, max_length=given.max_tokens, device="cpu", local_files_only=True)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        pairs = [tuple(pair) for pair in json.loads(line)["pairs"]]
        wall, cpu = time.perf_counter(), time.process_time()
        scores = model.predict(
            pairs,
            batch_size=given.batch_size,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        answer = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "scores": [float(score) for score in scores],
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
