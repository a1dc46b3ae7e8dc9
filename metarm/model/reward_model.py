"""A checkpoint as a reward model: loading, saving, and a differentiable forward from sequences to scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from metarm.errors import ConfigurationError, InvalidVersionError
from metarm.model.encoder_files import load_encoder
from metarm.model.encoding import Encoded, Encoder
from metarm.model.forward import Padded, PrefixStore, choose_route
from metarm.store.origin import DEFAULT_RULES, TextRules, token_limit

# The RoBERTa family numbers positions from pad_token_id + 1.
OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet"})
DEFAULT_BATCH_TOKENS = 1024  # larger batches gain nothing on CPU: their activations fall out of the cache


class RewardModel:
    """A scalar-head sequence classifier and the encoder that feeds it.

    Dropout is always off (eval mode), in training too: the same weights give the same scores.
    """

    def __init__(self, network: PreTrainedModel, encoder: Encoder, share_prompts: bool = True) -> None:
        """`share_prompts`: compute the prompt of several responses once, if the route supports it."""
        self.network = network.eval()
        self.encoder = encoder
        self.route = choose_route(network, encoder.max_tokens)
        self.shares_prompts = share_prompts and self.route.shares_prompts
        self._learns_in_bfloat16 = False

    def scores(
        self,
        samples: Sequence[Encoded],
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        prefixes: PrefixStore | None = None,
    ) -> Tensor:
        """Rewards (n,) in float32, in the order of `samples`; differentiable where gradients are on.

        They equal the checkpoint's own forward of each sequence alone, whatever else is in the batch.
        `batch_tokens` limits the tokens of one forward (at least one sequence each). `prefixes` keeps
        the keys and values of prompts for later calls, without gradients only.
        """
        reduced = self._learns_in_bfloat16 and torch.is_grad_enabled()
        with torch.autocast(self.network.device.type, torch.bfloat16) if reduced else nullcontext():
            if self.shares_prompts:
                return self.route.scores(list(samples), batch_tokens, prefixes)
            alone = [replace(sample, prompt_tokens=0) for sample in samples]
            return self.route.scores(alone, batch_tokens, None)

    def padding_ratio(self, samples: Sequence[Encoded], batch_tokens: int) -> float:
        """The share of padding among the tokens that `scores` computes for `samples`."""
        if isinstance(self.route, Padded):
            return self.route.padding_ratio([len(sample.ids) for sample in samples], batch_tokens)
        return 0.0

    def recomputing(self) -> AbstractContextManager[None]:
        """Gradient checkpointing of each layer inside the block: less memory, a longer backward pass.
        Raises ConfigurationError for a network that does not support it."""
        return self.route.recomputing()

    @contextmanager
    def learning_in_bfloat16(self) -> Iterator[None]:
        """Autocast to bfloat16 inside the block, where gradients are on. Weights, their gradients and the
        scores stay float32."""
        self._learns_in_bfloat16 = True
        try:
            yield
        finally:
            self._learns_in_bfloat16 = False

    def reduce_precision(self) -> None:
        """Convert the weights to bfloat16: faster where the processor multiplies it, and less exact. For
        scoring only. The route was chosen and checked in float32."""
        for parameter in self.network.parameters():  # not the buffers: rotary frequencies must stay exact
            parameter.data = parameter.data.to(torch.bfloat16)

    def save(self, folder: Path) -> None:
        """Write a safetensors checkpoint that `AutoModelForSequenceClassification` loads."""
        self.network.save_pretrained(folder)
        tokenizer = self.encoder.tokenizer
        # some checkpoints set a truncation in tokenizer.json, which would apply to other users of the files
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(folder)


def load_model(
    path: Path, max_tokens: int, share_prompts: bool = True, rules: TextRules = DEFAULT_RULES
) -> RewardModel:
    """A published version, in float32. Raises InvalidVersionError unless it is a complete safetensors
    checkpoint with one label."""
    config = _config_of(path)
    if config.num_labels != 1:
        raise InvalidVersionError(f"{path}: {config.num_labels} labels; a reward model has one")
    network, missing = _load_network(path, config)
    if missing:
        raise InvalidVersionError(f"{path}: the checkpoint lacks the weights {', '.join(missing)}")
    _take_into_memory(network)
    return RewardModel(network, load_encoder(path, _limit(config, max_tokens), rules), share_prompts)


def load_version(
    folder: Path, manifest: Mapping[str, Any], max_tokens: int | None = None, share_prompts: bool = True
) -> RewardModel:
    """A published version that reads text as its manifest says. Raises InvalidVersionError, also if the setting
    `max_tokens` is lower than the version's."""
    return load_model(folder, token_limit(manifest, max_tokens), share_prompts, TextRules.of(manifest))


def import_model(
    source: str, max_tokens: int, init_head: bool, seed: int, rules: TextRules = DEFAULT_RULES
) -> tuple[RewardModel, list[str]]:
    """A user's checkpoint (folder or hub id), and the names of the weights that the checkpoint lacks.

    A checkpoint without a trained one-label head is refused unless `init_head`, which then gives it
    a new one from `seed`. Raises ConfigurationError.
    """
    try:
        return _import_model(source, max_tokens, init_head, seed, rules)
    except InvalidVersionError as error:
        folder = "" if Path(source).exists() else f"there is no folder {source}; as a hub id: "
        raise ConfigurationError(f"{folder}{error.message}") from error


def _import_model(
    source: str, max_tokens: int, init_head: bool, seed: int, rules: TextRules
) -> tuple[RewardModel, list[str]]:
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
    return RewardModel(network, load_encoder(source, _limit(config, max_tokens), rules)), missing


def quiet_transformers() -> None:
    """Turn off the progress bars and load reports of transformers. Our own errors name missing weights."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()  # to the root handler
    transformers_logging.disable_progress_bar()


def all_finite(scores: Sequence[float]) -> bool:
    return all(math.isfinite(score) for score in scores)


def _config_of(source: Path | str) -> PreTrainedConfig:
    try:
        return cast("PreTrainedConfig", AutoConfig.from_pretrained(source))
    except (OSError, ValueError, KeyError) as error:
        raise InvalidVersionError(f"{source}: its config does not load: {error}") from error


def _load_network(source: Path | str, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """The classifier, and the names of its weights that the checkpoint lacks."""
    options: dict[str, Any] = {"config": config, "dtype": torch.float32, "use_safetensors": True}
    try:
        network, info = AutoModelForSequenceClassification.from_pretrained(
            source, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidVersionError(f"{source}: its weights do not load: {error}") from error
    return network, sorted(info["missing_keys"])


def _take_into_memory(network: PreTrainedModel) -> None:
    """Copy the weights. transformers memory-maps their file: a later write to it would change the scores of a
    verified version, and a truncation would kill the process (SIGBUS)."""
    for weight in (*network.parameters(), *network.buffers()):
        weight.data = weight.data.clone()


def _limit(config: PreTrainedConfig, max_tokens: int) -> int:
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return max_tokens
    if config.model_type in OFFSET_POSITIONS:
        positions -= (text.pad_token_id or 0) + 1
    return min(max_tokens, int(positions))
