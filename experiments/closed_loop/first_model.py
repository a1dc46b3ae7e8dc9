"""The reward model every arm of a seed starts from: a tiny BERT and its tokenizer, made from simulated
preferences by the trainer's own training loop, and kept by the content that made it."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from experiments.closed_loop.content import digest
from experiments.closed_loop.plan import StudyPlan
from metarm.model.encoding import Encoder
from metarm.model.reward_model import RewardModel
from metarm.records import Preference
from metarm.store.origin import DEFAULT_MAX_TOKENS
from simulation.policy import Policy
from simulation.preferences import encode_preferences, preference_pairs
from trainer.batches import encode_pairs
from trainer.bootstrap import ensure_first_version
from trainer.preferences import Preferences, PreferenceSet
from trainer.settings import TrainerSettings
from trainer.training import TrainOptions, train

UNKNOWN = "[UNK]"
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]")
INITIAL_DEVIATION = 0.05  # of the weights: BERT's own .02 is for its size, and slow at this one
PAIRS, WRITERS = 100, 101  # purposes of random numbers, apart from those in `play`


@dataclass(frozen=True, slots=True)
class FirstModel:
    """A checkpoint, and the preferences that it was and will be trained on."""

    checkpoint: Path
    preferences: Path


def first_model(plan: StudyPlan, seed: int, kept: Path) -> FirstModel:
    """The first model of `seed`; made where `kept` does not hold it yet."""
    data = _preferences(plan, seed)
    described = {"plan": asdict(plan.first_model), "trainer": dict(plan.trainer), "torch": torch.__version__}
    folder = kept / f"seed-{seed}-{digest({**described, 'seed': seed}, data)}"
    made = FirstModel(folder / "checkpoint", folder / "preferences.jsonl.gz")
    if folder.is_dir():
        return made
    kept.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=kept))
    try:
        (aside / made.preferences.name).write_bytes(data)
        _train(plan, seed, aside / made.preferences.name).save(aside / made.checkpoint.name)
        if not folder.is_dir():
            os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return made


def first_version(plan: StudyPlan, first: FirstModel, data_dir: Path) -> tuple[TrainerSettings, PreferenceSet]:
    """Publish the first model in `data_dir`, as a trainer does where there is none yet; that trainer's
    settings, and its preferences."""
    settings = trainer_settings(
        plan, {"data_dir": data_dir, "model": str(first.checkpoint), "preferences": first.preferences}
    )
    preferences = Preferences(settings).of_first()
    settings.store.prepare()
    ensure_first_version(settings.store, settings, preferences, threading.Event())
    return settings, preferences


def _preferences(plan: StudyPlan, seed: int) -> bytes:
    """The labelled pairs, as the file the trainer reads."""
    of_writers = np.random.default_rng([seed, WRITERS]).integers(2**31, size=plan.first_model.writers)
    writers = [Policy.initial(int(number)) for number in of_writers]
    rng = np.random.default_rng([seed, PAIRS])
    return encode_preferences(preference_pairs(writers, plan.first_model.pairs, rng, plan.first_model.noise))


def _train(plan: StudyPlan, seed: int, file: Path) -> RewardModel:
    """Bradley-Terry training from scratch, on the pairs that the gate does not hold out."""
    settings = trainer_settings(plan, {"preferences": file})
    preferences = Preferences(settings).of_first().train
    first = plan.first_model
    tokenizer = _tokenizer(preferences, first.vocabulary, first.positions)
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": first.hidden,
        "num_hidden_layers": first.layers,
        "num_attention_heads": first.heads,
        "intermediate_size": first.intermediate,
        "max_position_embeddings": first.positions,
        "initializer_range": INITIAL_DEVIATION,
        "num_labels": 1,
        "pad_token_id": tokenizer.pad_token_id,
    }
    network = BertForSequenceClassification(BertConfig(**config))
    model = RewardModel(network, Encoder(tokenizer, settings.max_tokens or DEFAULT_MAX_TOKENS))
    changes = {
        "ascent": "none",
        "steps": first.steps,
        "batch_size": first.batch_size,
        "learning_rate": first.learning_rate,
        "time_limit_s": math.inf,
        "seed": seed,
    }
    options = TrainOptions.of(settings, changes)
    train(model, encode_pairs(model.encoder, preferences), [], options, lambda _step, _report: None)
    return model


def trainer_settings(plan: StudyPlan, changes: dict[str, Any]) -> TrainerSettings:
    """The trainer's settings of a run: the plan's, and defaults for the rest."""
    return TrainerSettings(_env_file=None, **{**plan.trainer, **changes})


def _tokenizer(preferences: Sequence[Preference], size: int, positions: int) -> PreTrainedTokenizerFast:
    """The most frequent words of the preferences' own texts, numbers digit by digit, framed as BERT frames
    a pair. Counted here: the word pieces that a trainer of `tokenizers` finds are not the same twice."""
    backend = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )
    seen: Counter[str] = Counter()
    for text in (str(text) for p in preferences for text in (p.prompt, p.chosen, p.rejected)):
        words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        seen.update(word for word, _ in words)
    by_count = sorted(seen, key=lambda word: (-seen[word], word))
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *by_count][:size])}
    backend.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    start, separator = vocabulary["[CLS]"], vocabulary["[SEP]"]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", start), ("[SEP]", separator)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=positions,
        unk_token=UNKNOWN,
        pad_token="[PAD]",  # noqa: S106 (a token of text)
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
