"""The limit: the tokens a second that this machine's matrix products allow, from the operations per token.

`python -m bench.limit CHECKPOINT THREADS`: a worker process (bench/worker.py) that answers each line with a
Rate.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from bench import worker
from bench.models import Checkpoint
from bench.places import THREADS
from bench.processes import Worker
from metarm.runtime import process_environment

Shape = tuple[int, int, int]  # (rows, inner, columns) of one product
LARGE: tuple[Shape, ...] = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 4096))
ROWS = (512, 2048)  # tokens in one product
BLOCK_S, BLOCKS = 0.06, 3


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of the full forward of one sequence, without prefix sharing.

    A multiplication and its addition count as two. Normalisations, activations and softmax are not counted.
    """

    linear: float  # per token, all layers
    attention: float  # per token and position that it attends to, all layers
    head: float  # per sequence
    causal: bool  # a token attends to half the positions on average
    shapes: tuple[tuple[int, int], ...]  # (inner, columns) of the layers' products

    def of(self, tokens: int) -> float:
        positions = tokens / 2 if self.causal else tokens
        return self.linear * tokens + self.attention * tokens * positions + self.head

    def of_all(self, lengths: Sequence[int]) -> float:
        return sum(self.of(length) for length in lengths)


def work(config: dict[str, Any]) -> Work:
    """The work of a checkpoint with this config.json. Raises KeyError for an unknown architecture."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    queries = heads * (config.get("head_dim") or hidden // heads)
    keys = queries // heads * (config.get("num_key_value_heads") or heads)
    inner = config["intermediate_size"]
    gated, pooler, causal = {"bert": (0, hidden, False), "llama": (1, 0, True)}[config["model_type"]]
    shapes = (
        (hidden, queries + 2 * keys),
        (queries, hidden),
        (hidden, inner * (1 + gated)),
        (inner, hidden),
    )
    return Work(
        linear=layers * sum(2.0 * rows * columns for rows, columns in shapes),
        attention=layers * 4.0 * queries,  # queries × keys, weights × values
        head=2.0 * hidden * (pooler + 1),
        causal=causal,
        shapes=shapes,
    )


def work_of(checkpoint: Path) -> Work:
    return work(json.loads((checkpoint / "config.json").read_text()))


@dataclass(frozen=True, slots=True)
class Rate:
    """Best float32 matrix-product rates in operations a second: of large shapes, and of the model's own."""

    large: float
    model: float
    shapes: dict[str, float]

    @property
    def best(self) -> float:
        return max(self.large, self.model)


class Limit:
    """Measures the rate in a worker process, with as many threads as every arm has."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self.work = work_of(checkpoint.path)
        command = [sys.executable, "-m", "bench.limit", str(checkpoint.path), str(THREADS)]
        self._worker = Worker(command, folder, process_environment.REQUIRED)

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._worker.__exit__(*exc_info)

    def measure(self) -> Rate:
        return Rate(**self._worker.ask({}))

    def tokens_per_s(self, rate: Rate, lengths: Sequence[int]) -> float:
        """Tokens a second at that rate, for sequences of these lengths."""
        return sum(lengths) / (self.work.of_all(lengths) / rate.best)


def _rate(shape: Shape) -> float:
    """The best rate of BLOCKS blocks of BLOCK_S seconds of `x @ weight.T`, as linear layers compute it."""
    rows, inner, columns = shape
    x, weight, out = torch.randn(rows, inner), torch.randn(columns, inner), torch.empty(rows, columns)
    operations = 2.0 * rows * inner * columns
    torch.mm(x, weight.t(), out=out)
    best = 0.0
    for _ in range(BLOCKS):
        done, elapsed, start = 0, 0.0, time.perf_counter()
        while elapsed < BLOCK_S:
            torch.mm(x, weight.t(), out=out)
            done, elapsed = done + 1, time.perf_counter() - start
        best = max(best, done * operations / elapsed)
    return best


def main() -> None:
    process_environment.check()
    torch.set_num_threads(int(sys.argv[2]))
    own = [(rows, *shape) for shape in work_of(Path(sys.argv[1])).shapes for rows in ROWS]

    def answer(_question: dict[str, Any]) -> dict[str, Any]:
        large = {_name(shape): _rate(shape) for shape in LARGE}
        model = {_name(shape): _rate(shape) for shape in own}
        return {"large": max(large.values()), "model": max(model.values()), "shapes": large | model}

    worker.serve(answer)


def _name(shape: Shape) -> str:
    return "×".join(map(str, shape))


if __name__ == "__main__":
    main()
