"""The inputs of the last layer over a frozen trunk: computed once a text, kept on disk, memory-mapped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.models.bert.modeling_bert import BertForSequenceClassification

from metarm.errors import ConfigurationError
from metarm.model.encoding import Encoded
from metarm.model.forward.packing import consecutive
from metarm.model.reward_model import DEFAULT_BATCH_TOKENS, RewardModel
from metarm.runtime.cores import usable_cores

States = dict[bytes, Tensor]  # (S, H) of each text, by `Encoded.key`


class FrozenStates:
    """States of the layer below the last one, in memory or mapped."""

    def __init__(self, states: States) -> None:
        self._states = states

    def first(self, samples: Sequence[Encoded]) -> Tensor:
        """(n, H) in float32: the first token of each."""
        return torch.stack([self._states[sample.key][0] for sample in samples]).float()

    def padded(self, samples: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """(n, S, H) in float32, padded with 0 at the end, and the mask (n, S), True where a token is."""
        parts = [self._states[sample.key] for sample in samples]
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
) -> States:
    """The states of every distinct sample. They are kept in `folder`, in a file named after the frozen weights
    and the texts, and mapped from there if it is there already."""
    distinct = {sample.key: sample for sample in samples}
    keys = sorted(distinct)
    file = folder / f"{_digest(model, keys, dtype)}.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        _write(unfinished, model, [distinct[key] for key in keys], dtype)
        unfinished.rename(file)
    # copy on write: torch does not take an array that it could not write to
    states = torch.from_numpy(np.load(file, mmap_mode="c"))
    parts = torch.split(states, [len(distinct[key].ids) for key in keys])
    return dict(zip(keys, parts, strict=True))


def _write(file: Path, model: RewardModel, samples: Sequence[Encoded], dtype: type[np.floating[Any]]) -> None:
    """The states of all samples, end to end. The model's own forward runs, one batch per core; the input of
    the keys of its last layer is kept."""
    lengths = [len(sample.ids) for sample in samples]
    starts = [0, *accumulate(lengths)]
    key_layer = _last_attention(model.network).key
    shape = (starts[-1], key_layer.in_features)
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    seen = threading.local()

    def keep_inputs(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.states = inputs[0]

    @torch.inference_mode()
    def forward(run: range) -> int:
        model.scores(samples[run.start : run.stop], DEFAULT_BATCH_TOKENS)
        array[starts[run.start] : starts[run.stop]] = seen.states.numpy()
        return len(seen.states)

    hook = key_layer.register_forward_pre_hook(keep_inputs)
    try:
        with (
            tqdm(total=shape[0], desc="frozen layers", unit="token", disable=None, leave=False) as bar,
            ThreadPoolExecutor(usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            # a run is one forward, so that the hook is called once for it
            for tokens in pool.map(forward, consecutive(lengths, DEFAULT_BATCH_TOKENS)):
                bar.update(tokens)
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
