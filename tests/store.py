"""A version store filled for tests, as the trainer would fill it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metarm.model import load_model
from metarm.versions import VersionStore


def publish(data_dir: Path, checkpoint: Path, *, activate: bool = True, **fields: Any) -> str:
    """Publish a checkpoint under `data_dir`/versions, with these `fields` in its manifest; return its name."""
    store = VersionStore(data_dir / "versions")
    if not store.root.exists():
        store.prepare()
    before = store.current()
    name, folder = store.stage()
    load_model(checkpoint, 512).save(folder)
    manifest = {"parent": before, "job": None, "method": "import", "encoding": {"max_tokens": 512}}
    store.publish(name, {**manifest, **fields})
    if before and not activate:
        store.activate(before)
    return name
