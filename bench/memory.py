"""`bench/memory`: the peak memory of a vanilla update beyond the loaded model, by what is trained and how.

The packaged encoder and preferences, with the trainer's own batch sizes; each arm runs in a process of its own.
The figure is resident memory: gradients, AdamW's moments and activations.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.models import checkpoint
from metarm.model.reward_model import load_model, quiet_transformers
from trainer.batches import encode_pairs
from trainer.preferences import load_preferences
from trainer.settings import TrainerSettings
from trainer.trainable import trainable
from trainer.training import TrainOptions, train

ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, gradient_checkpointing": {"gradient_checkpointing": True},
    "full, bfloat16": {"train_precision": "bfloat16"},
    "lora": {"trainable": "lora"},
    "lora, gradient_checkpointing": {"trainable": "lora", "gradient_checkpointing": True},
    "head": {"trainable": "head"},
}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/memory", description=__doc__)
    parser.add_argument("--arm", choices=list(ARMS), help="measure only this arm")
    arm = parser.parse_args().arm
    if arm is not None:
        tokens, peak = _measure(ARMS[arm])
        print(f"{arm:32}{peak / MIB:6.0f} MiB, {tokens} tokens", flush=True)
        return
    for name in tqdm(ARMS, desc="arms", disable=None, leave=False):
        subprocess.run([sys.executable, "-P", "-m", "bench.memory", "--arm", name], check=True)  # noqa: S603


def _measure(changes: dict[str, Any]) -> tuple[int, int]:
    """The tokens of the update, and its bytes at the peak."""
    quiet_transformers()
    torch.set_num_threads(1)
    made, settings = checkpoint("encoder"), TrainerSettings()
    model = load_model(made.path, made.max_tokens)
    preferences = load_preferences(None)
    pairs = encode_pairs(model.encoder, preferences.train)
    # as many pairs as one batch has, so that every draw has the same pairs
    pairs = sorted(pairs, key=lambda pair: pair.tokens)[-settings.batch_size :]
    options = TrainOptions.of(settings, {"ascent": "none", "steps": 1, **changes})
    with trainable(model.network, options.trainable, rank=options.lora_rank, alpha=1, seed=0):
        pass  # memory of these imports does not count as the update's
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    train(model, pairs, [], options, lambda *_: None)
    return sum(pair.tokens for pair in pairs), _resident("VmHWM") - before


def _resident(name: str) -> int:
    """Bytes of the figure that the kernel calls `name`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
