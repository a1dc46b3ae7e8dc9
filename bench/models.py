"""The two checkpoints that are scored: plain Hugging Face folders that every arm loads, made once and kept.

encoder: the packaged MiniLM with a new one-label head, scaled so that scores spread like rewards. Both rows of
its segment embeddings are equal: one peer (infinity's optimum engine) drops the segment ids of a pair, and its
scores would differ. The work per token is unchanged.

causal: a small Llama with random weights and a tokenizer of whole words, so that lengths are exact.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from bench.places import MODELS
from metarm.model.encoding import Encoder
from metarm.model.reward_model import RewardModel, import_model
from metarm.store.versions import VersionStore
from trainer.bootstrap import packaged_encoder

Kind = Literal["encoder", "causal"]
MAX_TOKENS: dict[Kind, int] = {"encoder": 512, "causal": 1024}
RECIPE = "1"  # raise it to have the checkpoints made again
CAUSAL_WORDS = 8192
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SCORE_SPREAD = 1.0  # standard deviation the heads are scaled to


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder for `AutoModelForSequenceClassification`, and the longest sequence that is scored with it."""

    kind: Kind
    path: Path
    max_tokens: int


def checkpoint(kind: Kind) -> Checkpoint:
    """The checkpoint of `kind`, which is made if it does not exist."""
    folder = MODELS / f"{kind}-{RECIPE}"
    if not folder.is_dir():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make: dict[Kind, Callable[[], RewardModel]] = {"encoder": _encoder, "causal": _causal}
        model = make[kind]()
        _spread_scores(model)
        model.save(unfinished)
        _readable_by_older_transformers(unfinished)
        unfinished.rename(folder)
    return Checkpoint(kind, folder, MAX_TOKENS[kind])


def publish(made: Checkpoint, data_dir: Path) -> str:
    """Publish the checkpoint as the first version of a new store under `data_dir`; returns its name."""
    store = VersionStore(data_dir / "versions")
    store.prepare()
    name, folder = store.stage()
    shutil.copytree(made.path, folder, dirs_exist_ok=True)
    encoding = {"max_tokens": made.max_tokens}
    store.publish(name, {"parent": None, "job": None, "method": "import", "encoding": encoding})
    return name


def publish_copies(made: Checkpoint, data_dir: Path, count: int) -> VersionStore:
    """`count` versions of the same weights, the first of them current, in the store of `data_dir`."""
    first = publish(made, data_dir)
    store = VersionStore(data_dir / "versions")
    for _ in range(count - 1):
        name, staged = store.stage()
        shutil.copytree(made.path, staged, dirs_exist_ok=True, copy_function=os.link)
        store.publish(name, {"parent": first, "job": None, "method": "import"}, activate=False)
    return store


def _encoder() -> RewardModel:
    model, _ = import_model(str(packaged_encoder()), MAX_TOKENS["encoder"], init_head=True, seed=0)
    segments: torch.Tensor = model.network.get_submodule("bert.embeddings.token_type_embeddings").weight
    with torch.no_grad():
        segments[1] = segments[0]
    return model


def _causal() -> RewardModel:
    torch.manual_seed(0)
    tokenizer = _word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=1536,
        max_position_embeddings=MAX_TOKENS["causal"],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    config.num_labels = 1
    network: PreTrainedModel = LlamaForSequenceClassification(config)
    return RewardModel(network, Encoder(tokenizer, MAX_TOKENS["causal"]))


def _word_tokenizer() -> PreTrainedTokenizerFast:
    """Words split at white space; one end-of-sequence token at the end of a text or a pair, so that peers that
    encode pairs and our concatenation give the model the same ids."""
    words = [PAD, END, UNKNOWN, *causal_words()]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A:0 $B:0 {END}:0", special_tokens=[(END, words.index(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_TOKENS["causal"],
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
    )


def causal_words() -> list[str]:
    """The vocabulary of the causal checkpoint: syllables in order, such as "bakine"."""
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    count = len(syllables)
    numbers = range(count**2, count**2 + CAUSAL_WORDS - 3)
    return ["".join(syllables[n // count**p % count] for p in (2, 1, 0)) for n in numbers]


def _spread_scores(model: RewardModel) -> None:
    """Scale the head so that scores of random sequences have a standard deviation of SCORE_SPREAD."""
    words = [*model.encoder.tokenizer.get_vocab()]
    words = sorted(word for word in words if word.isalpha() and word.islower())
    step = max(1, len(words) // 640)
    texts = [" ".join(words[i * step :: 7 * (i + 1)][:60]) for i in range(32)]
    samples = [model.encoder.encode([(text, [" " + words[-i - 1]])])[0][0] for i, text in enumerate(texts)]
    with torch.no_grad():
        factor = SCORE_SPREAD / model.scores(samples).std()
        _head(model.network).weight.mul_(factor)


def _head(network: PreTrainedModel) -> nn.Linear:
    head = getattr(network, "classifier", None) or getattr(network, "score", None)
    if not isinstance(head, nn.Linear):
        raise TypeError(f"{type(network).__name__} has no linear head")
    return head


def _readable_by_older_transformers(folder: Path) -> None:
    """Rename the tokenizer class: transformers 4.x, which some peers need, does not know the class of 5.x."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, indent=2))
