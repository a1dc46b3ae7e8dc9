"""A candidate's folder in the store until it is published, rejected or discarded."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from metarm.model.reward_model import RewardModel, load_model
from metarm.runtime import tracing
from metarm.store.versions import VersionStore


class Staging:
    """The files of one version, for a `with` block; deleted at its end unless published or rejected."""

    def __init__(self, store: VersionStore) -> None:
        self._store = store
        self._name: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._name is not None:
            self._store.discard(self._name)

    def save_and_load(self, model: RewardModel) -> tuple[str, RewardModel]:
        """The name that the store gives the version, and the model as loaded from its files: as it is served.

        The name is taken here, so that a run that fails in training uses none. Call it once.
        """
        self._name, folder = self._store.stage()
        with tracing.span("save", version=self._name):
            model.save(folder)
            return self._name, load_model(folder, model.encoder.max_tokens, rules=model.encoder.rules)
