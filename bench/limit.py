"""The limit: what this machine's matrix products would allow, at the operations a token takes.

`python -m bench.limit CHECKPOINT THREADS` answers each line on standard input with the rate it measures.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson
import torch

from bench.models import Checkpoint
from bench.places import THREADS
from bench.processes import Worker
from metarm.runtime import process_environment

Shape = tuple[int, int, int]  # (rows, inner, columns) of one product
LARGE: tuple[Shape, ...] = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 4096))
ROWS = (512, 2048)  # tokens that go through a layer together
BLOCK_S, BLOCKS = 0.06, 3


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one full forward of one sequence: nothing shared, nothing left out.

    A multiplication and its addition are two. Normalisations, activations and softmax count nothing.
    """

    linear: float  # a token, all layers
    attention: float  # a token and a position it attends to, all layers
    head: float  # a sequence
    causal: bool  # a token attends to half the positions on average
    shapes: tuple[tuple[int, int], ...]  # (inner, columns) of the layers' products

    def of(self, tokens: int) -> float:
        positions = tokens / 2 if self.causal else tokens
        return self.linear * tokens + self.attention * tokens * positions + self.head

    def of_all(self, lengths: Sequence[int]) -> float:
        return sum(self.of(length) for length in lengths)


def work(config: dict[str, Any]) -> Work:
    """The work of a checkpoint by its config.json. Raises KeyError for an architecture not known here."""
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
    """Best float32 matrix-product rates, operations a second: of large shapes, of the model's own."""

    large: float
    model: float
    shapes: dict[str, float]

    @property
    def best(self) -> float:
        return max(self.large, self.model)


class Limit:
    """Measures the rate in a process of its own, with the threads every arm has."""

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
    """The best of BLOCKS blocks of BLOCK_S seconds of `x @ weight.T`, as linear layers compute it."""
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
    _answer({"ready": True})
    for _ in sys.stdin.buffer:
        large = {_name(shape): _rate(shape) for shape in LARGE}
        model = {_name(shape): _rate(shape) for shape in own}
        _answer({"large": max(large.values()), "model": max(model.values()), "shapes": large | model})


def _name(shape: Shape) -> str:
    return "×".join(map(str, shape))


def _answer(content: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(content) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
