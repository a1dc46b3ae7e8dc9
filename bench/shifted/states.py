"""What the last layer of a frozen trunk reads of every text: computed once, kept on disk, mapped from there."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.models.bert.modeling_bert import BertForSequenceClassification

from metarm.encoding import Encoded
from metarm.errors import ConfigurationError
from metarm.forward.packing import consecutive
from metarm.model import RewardModel

BATCH_TOKENS = 8192  # between two looks of the progress bar


class FrozenStates:
    """States (S, H) of the layer below the last one, by `Encoded.key`."""

    def __init__(self, states: Tensor, rows: dict[bytes, tuple[int, int]]) -> None:
        """`states` (T, H): those of all texts end to end; `rows` [start, end) of each."""
        self._states = states
        self._rows = rows

    def first(self, samples: Sequence[Encoded]) -> Tensor:
        """(n, H) in float32: the first token of each."""
        return self._states[torch.tensor([self._rows[sample.key][0] for sample in samples])].float()

    def padded(self, samples: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """(n, S, H) in float32, filled with 0 at the end, and the mask (n, S) of what is not filling."""
        parts = [self._states[slice(*self._rows[sample.key])] for sample in samples]
        lengths = torch.tensor([len(part) for part in parts])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).float(), mask


def learning_parts(network: nn.Module) -> list[nn.Module]:
    """The last layer, the pooler and the head. Raises ConfigurationError for any but a BERT with a pooler."""
    if not isinstance(network, BertForSequenceClassification) or network.bert.pooler is None:
        raise ConfigurationError(f"{type(network).__name__}: only a BERT with a pooler can be folded")
    return [network.bert.encoder.layer[-1], network.bert.pooler, network.classifier]


def freeze(network: nn.Module) -> None:
    """Let only `learning_parts` learn, without the bias of the last layer's keys: it adds the same to every
    score of a query, so the softmax drops it and its gradient is 0."""
    network.requires_grad_(False)
    for part in learning_parts(network):
        part.requires_grad_(True)
    _last_attention(network).key.bias.requires_grad_(False)


def states_of(
    model: RewardModel, samples: Sequence[Encoded], folder: Path, dtype: type[np.floating[Any]] = np.float16
) -> FrozenStates:
    """The states of every distinct sample. They are kept in `folder`, in a file named after the frozen weights
    and the texts, and read from there if it is there already."""
    distinct = {sample.key: sample for sample in samples}
    ordered = [distinct[key] for key in sorted(distinct)]
    ends = np.cumsum([len(sample.ids) for sample in ordered]).tolist()
    rows = dict(zip(sorted(distinct), zip([0, *ends[:-1]], ends, strict=True), strict=True))
    file = folder / f"{_digest(model, sorted(distinct), dtype)}.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        _write(unfinished, model, ordered, dtype)
        unfinished.rename(file)
    # copy on write: torch does not take an array that it could not write to
    return FrozenStates(torch.from_numpy(np.load(file, mmap_mode="c")), rows)


@torch.inference_mode()
def _write(file: Path, model: RewardModel, samples: Sequence[Encoded], dtype: type[np.floating[Any]]) -> None:
    """Run the model's own forward; keep what its last layer's keys are made from: all tokens, end to end."""
    lengths = [len(sample.ids) for sample in samples]
    keys = _last_attention(model.network).key
    shape = (sum(lengths), keys.in_features)
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    place = 0

    def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal place
        hidden = inputs[0]
        array[place : place + len(hidden)] = hidden.numpy()
        place += len(hidden)

    hook = keys.register_forward_pre_hook(take)
    try:
        with tqdm(total=shape[0], desc="frozen layers", unit="token", disable=None, leave=False) as bar:
            for run in consecutive(lengths, BATCH_TOKENS):
                model.scores(samples[run.start : run.stop])
                bar.update(sum(lengths[run.start : run.stop]))
    finally:
        hook.remove()
    array.flush()


def _last_attention(network: nn.Module) -> Any:
    return network.get_submodule("bert.encoder.layer")[-1].attention.self  # type: ignore[index]


def _digest(model: RewardModel, keys: Sequence[bytes], dtype: type[np.floating[Any]]) -> str:
    digest = blake2b(f"{dtype.__name__} {len(keys)}".encode(), digest_size=16)
    for key in keys:
        digest.update(key)
    learning = {id(p) for part in learning_parts(model.network) for p in part.parameters()}
    for parameter in model.network.parameters():
        if id(parameter) not in learning:
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()
