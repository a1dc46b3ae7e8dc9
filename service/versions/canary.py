"""The label `canary`: the share of prompts that it answers, and the groups it fails to score."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from metarm.errors import MetaRMError, NonFiniteScoreError
from metarm.records import Prompt
from metarm.runtime.rate_limit import RateLimit
from metarm.store.versions import version_number
from service.versions.live import LiveVersions, LoadedVersion
from service.versions.prompt_share import share_of

log = logging.getLogger(__name__)

CANARY = "canary"
LOG_EVERY_S = 60.0  # for each canary and reason: a broken canary fails many times a second


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that scores a share of the prompts."""

    version: LoadedVersion
    share: float

    def takes(self, prompt: Prompt) -> bool:
        return share_of(prompt) < self.share


def active_canary(current: LoadedVersion, live: LiveVersions, min_version: str | None) -> Canary | None:
    """The canary of a request that pins no version. None if the label is not set, is a shadow, or names a
    version that is not in memory or is older than `min_version`."""
    label = live.labels.get(CANARY)
    if label is None or label.shadow or label.share == 0 or current.name != live.current_name:
        return None
    version = live.loaded(label.version)
    if version is None or (min_version and version_number(version.name) < version_number(min_version)):
        return None
    return Canary(version, label.share)


class CanaryFallbacks:
    """Counts the groups that the canary fails to score, and logs why. Lives on the event loop."""

    def __init__(self, on_fallback: Callable[[str, int], None]) -> None:
        """`on_fallback` receives the reason and the number of groups."""
        self._on_fallback = on_fallback
        self._limit = RateLimit(LOG_EVERY_S)

    def record(self, canary: str, groups: int, error: Exception) -> None:
        reason = "non_finite" if isinstance(error, NonFiniteScoreError) else "failed"
        self._on_fallback(reason, groups)
        if self._limit.admit((canary, reason)) is None:
            return
        unexpected = None if isinstance(error, MetaRMError) else error
        log.warning(
            "the canary %s fails, and the request's own version answers: %s", canary, error, exc_info=unexpected
        )
