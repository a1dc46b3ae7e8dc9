"""`bench/profile`: the time of a forward and of a training step, by operation."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.models import checkpoint
from bench.places import WORK
from bench.workload import GeneratedGroups, Load, Request, encoder_pairs
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel, load_model, quiet_transformers
from trainer.batches import EncodedPair, backward_preference

ROWS = 12
PAIRS = 16
# operations by part of a transformer
PARTS = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::linear"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "attention, backward": ("aten::_scaled_dot_product_flash_attention_for_cpu_backward",),
    "activation": ("aten::gelu", "aten::silu", "aten::gelu_backward", "aten::mul"),
    "norms": ("aten::native_layer_norm", "aten::native_layer_norm_backward", "aten::rsqrt", "aten::pow"),
    "copies": ("aten::copy_", "aten::cat", "aten::index", "aten::fill_", "aten::add_", "aten::add"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/profile", description=__doc__)
    parser.add_argument("--trace", action="store_true", help="also write traces for a timeline viewer")
    trace = parser.parse_args().trace
    quiet_transformers()
    torch.set_num_threads(1)  # as one worker of the service runs
    encoder, causal = (
        load_model(made.path, made.max_tokens) for made in (checkpoint("encoder"), checkpoint("causal"))
    )
    texts = _encoded(encoder, encoder_pairs().requests(Load("profile", "encoder", 1, 1, 64), "profile"))
    groups = _encoded(causal, GeneratedGroups().requests(Load("profile", "causal", 1, 16, 2), "profile"))
    training = [EncodedPair(a, b, 0.0) for a, b in zip(texts[:PAIRS], texts[PAIRS:], strict=False)]
    for name, run in (
        ("forward, mixed lengths, encoder", _forward(encoder, texts)),
        ("forward, groups of 16 on one prompt, causal", _forward(causal, groups)),
        (f"training step, {PAIRS} pairs, encoder", lambda: backward_preference(encoder, training, 4096)),
    ):
        _show(name, run, WORK / f"{name.split(',')[0]}.json" if trace else None)


def _forward(model: RewardModel, samples: Sequence[Encoded]) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return model.scores(samples)

    return run


def _encoded(model: RewardModel, requests: Sequence[Request]) -> list[Encoded]:
    groups = model.encoder.encode([(request.prompt, request.responses) for request in requests])
    return [sample for group in groups for sample in group]


def _show(name: str, run: Callable[[], object], trace: Path | None) -> None:
    run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print(f"\n{name}: {total / 1e6:.2f} s of one core")
    known = {operation: part for part, operations in PARTS.items() for operation in operations}
    shares: dict[str, float] = dict.fromkeys([*PARTS, "everything else"], 0.0)
    for event in events:
        shares[known.get(event.key, "everything else")] += event.self_cpu_time_total / total
    print("  " + ", ".join(f"{part} {share:.1%}" for part, share in shares.items() if share >= 0.001))
    for event in events[:ROWS]:
        print(f"  {event.self_cpu_time_total / total:6.1%}  {event.count:6} × {event.key}")
    if trace:
        found.export_chrome_trace(str(trace))
        print(f"  timeline: {trace}")


if __name__ == "__main__":
    main()
