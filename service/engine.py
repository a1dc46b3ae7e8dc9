"""One slice of samples → scores, as fast as this machine allows. Runs in the forward thread."""

from __future__ import annotations

import torch

from metarm.encoding import Encoded
from service.live_model import LoadedVersion


class Engine:
    """Scores slices; `batch_tokens` bounds each padded forward inside one."""

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens

    def score_slice(self, version: LoadedVersion, samples: list[Encoded]) -> list[float]:
        """Rewards in the order of `samples`, as the model answers them (finite or not)."""
        with torch.inference_mode():
            return version.model.scores(samples, self._batch_tokens).tolist()
