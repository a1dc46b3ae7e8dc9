"""Load a checkpoint as a reward model; one differentiable forward from encoded sequences to scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from metarm.encoding import Encoded, Encoder, load_encoder
from metarm.errors import ConfigurationError, InvalidVersionError

# RoBERTa's family numbers positions from pad_token_id + 1.
OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet"})
DEFAULT_BATCH_TOKENS = 1024  # the best padded batch on CPU: larger ones fall out of the cache


class RewardModel:
    """A scalar-head sequence classifier and the encoder that feeds it.

    Dropout is off, in training too (eval mode): the same weights always give the same scores.
    """

    def __init__(self, network: PreTrainedModel, encoder: Encoder) -> None:
        self.network = network.eval()
        self.encoder = encoder
        self._pools_last_token = isinstance(getattr(network, "score", None), nn.Module)
        self._pad_id: int | None = network.config.get_text_config().pad_token_id

    def scores(self, samples: Sequence[Encoded], batch_tokens: int = DEFAULT_BATCH_TOKENS) -> Tensor:
        """Rewards (n,) in float32, in the order of `samples`; differentiable unless grad is off.

        Equal to the checkpoint's own forward of each sequence alone: what else is in the batch
        changes nothing. `batch_tokens` bounds one padded forward (at least one sequence each).
        """
        parts, order = [], []
        for indices in length_batches([len(s.ids) for s in samples], batch_tokens):
            parts.append(self._forward([samples[i] for i in indices]))
            order += indices
        place = torch.empty(len(order), dtype=torch.long)
        place[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[place.to(parts[0].device)]

    def save(self, folder: Path) -> None:
        """Write a checkpoint any `AutoModelForSequenceClassification` loads (safetensors)."""
        self.network.save_pretrained(folder)
        tokenizer = self.encoder.tokenizer
        # some checkpoints bake a truncation into tokenizer.json, which would cut raw users short
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(folder)

    def _forward(self, samples: Sequence[Encoded]) -> Tensor:
        """Scores (n,) of sequences of similar length, right-padded to the longest (n, S)."""
        longest = max(len(s.ids) for s in samples)
        pad = self._pad_id or 0
        inputs = {
            "input_ids": self._padded([s.ids for s in samples], longest, pad),
            "attention_mask": self._padded([[1] * len(s.ids) for s in samples], longest, 0),
        }
        if samples[0].type_ids is not None:
            inputs["token_type_ids"] = self._padded([s.type_ids or [] for s in samples], longest, 0)
        if not self._pools_last_token:
            return cast("Tensor", self.network(**inputs).logits)[:, 0].float()
        hidden = self.network.base_model(**inputs, use_cache=False).last_hidden_state  # (n, S, H)
        last = torch.tensor([self._pooled_position(s.ids) for s in samples], device=hidden.device)
        pooled = hidden[torch.arange(len(samples), device=hidden.device), last]  # (n, H)
        return cast("Tensor", self.network.score(pooled))[:, 0].float()

    def _pooled_position(self, ids: Sequence[int]) -> int:
        """Where transformers reads the score of this sequence alone: its last token that is not the
        padding token, which matters where padding and end-of-sequence are one token."""
        if self._pad_id is None:
            return len(ids) - 1
        return next((i for i in range(len(ids) - 1, -1, -1) if ids[i] != self._pad_id), 0)

    def _padded(self, rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
        full = [[*row, *([fill] * (width - len(row)))] for row in rows]
        return torch.tensor(full, device=self.network.device)


def load_model(path: Path, max_tokens: int) -> RewardModel:
    """A published version, in float32. Raises InvalidVersionError for anything but a complete
    one-label safetensors checkpoint."""
    config = _config_of(path)
    if config.num_labels != 1:
        raise InvalidVersionError(f"{path}: {config.num_labels} labels; a reward model has one")
    network, missing = _load_network(path, config)
    if missing:
        raise InvalidVersionError(f"{path}: the checkpoint lacks {missing}")
    return RewardModel(network, load_encoder(path, _limit(config, max_tokens)))


def import_model(source: str, max_tokens: int, init_head: bool, seed: int) -> tuple[RewardModel, list[str]]:
    """A user's checkpoint (folder or hub id), and the names of the weights that had to be made up.

    A checkpoint without a trained one-label head is refused unless `init_head`, which then gives it
    a new one from `seed`. Raises ConfigurationError.
    """
    try:
        return _import_model(source, max_tokens, init_head, seed)
    except InvalidVersionError as error:
        raise ConfigurationError(error.message) from error


def _import_model(source: str, max_tokens: int, init_head: bool, seed: int) -> tuple[RewardModel, list[str]]:
    config = _config_of(source)
    has_head = any(a.endswith("ForSequenceClassification") for a in config.architectures or [])
    if has_head and config.num_labels != 1:
        raise ConfigurationError(f"{source}: its head has {config.num_labels} labels; a reward model has one")
    config.num_labels = 1
    torch.manual_seed(seed)
    network, missing = _load_network(source, config)
    if missing and not init_head:
        raise ConfigurationError(
            f"{source} is a bare backbone: it lacks {', '.join(missing)}. Pass --init-head to give it a new, "
            "untrained head that is then fine-tuned on the preferences"
        )
    return RewardModel(network, load_encoder(source, _limit(config, max_tokens))), missing


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices grouped by similar length, longest first, so that a group padded to its longest holds
    at most `batch_tokens` tokens (or one sequence)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def quiet_transformers() -> None:
    """No progress bars and load reports: what is missing from a checkpoint is said by our own errors."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def all_finite(scores: Sequence[float]) -> bool:
    return all(math.isfinite(score) for score in scores)


def _config_of(source: Path | str) -> PreTrainedConfig:
    try:
        return cast("PreTrainedConfig", AutoConfig.from_pretrained(source))
    except (OSError, ValueError, KeyError) as error:
        raise InvalidVersionError(f"{source}: its config does not load: {error}") from error


def _load_network(source: Path | str, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """The classifier and the names of its weights that the checkpoint does not have."""
    options: dict[str, Any] = {"config": config, "dtype": torch.float32, "use_safetensors": True}
    try:
        network, info = AutoModelForSequenceClassification.from_pretrained(
            source, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidVersionError(f"{source}: its weights do not load: {error}") from error
    return network, sorted(info["missing_keys"])


def _limit(config: PreTrainedConfig, max_tokens: int) -> int:
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return max_tokens
    if config.model_type in OFFSET_POSITIONS:
        positions -= (text.pad_token_id or 0) + 1
    return min(max_tokens, int(positions))
