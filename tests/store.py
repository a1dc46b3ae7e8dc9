"""Version stores for tests, filled as the trainer fills them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarm.model.reward_model import load_model
from metarm.store.versions import VersionStore
from tests.tiny import make_checkpoint


def publish(data_dir: Path, checkpoint: Path, *, activate: bool = True, **fields: Any) -> str:
    """Publish a checkpoint under `data_dir`/versions and return its new name. `fields` are added to its
    manifest."""
    store = VersionStore(data_dir / "versions")
    if not store.root.exists():
        store.prepare()
    before = store.current()
    name, folder = store.stage()
    load_model(checkpoint, 512).save(folder)
    manifest = {"parent": before, "job": None, "method": "import", "encoding": {"max_tokens": 512}}
    store.publish(name, {**manifest, **fields}, activate=activate or before is None)
    return name


def publish_several(
    data_dir: Path,
    count: int,
    *,
    current: int,
    calibrations: Mapping[int, Mapping[str, float]] | None = None,
) -> Path:
    """Publish `count` tiny BERTs with the seeds 0, 1, …, as v000001, v000002, …, and return `data_dir`. Their
    checkpoints stay in `data_dir`/m0, m1, …. The first `current` versions are activated in order."""
    for number in range(1, count + 1):
        checkpoint = make_checkpoint(data_dir / f"m{number - 1}", "bert", seed=number - 1)
        calibration = (calibrations or {}).get(number)
        publish(data_dir, checkpoint, activate=number <= current, calibration=calibration)
    return data_dir


def weightless_store(data_dir: Path, count: int, *, current: int = 1) -> VersionStore:
    """A store of versions that can be listed and activated, but not loaded. The first `current` versions are
    activated in order."""
    store = VersionStore(data_dir / "versions")
    store.prepare()
    for number in range(1, count + 1):
        publish_weightless(store, activate=number <= current)
    return store


def publish_weightless(store: VersionStore, *, activate: bool = False) -> str:
    name, folder = store.stage()
    (folder / "model.safetensors").write_bytes(b"weights")
    store.publish(name, {}, activate=activate)
    return name
