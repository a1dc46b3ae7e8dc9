"""Which version scores a group: the current one, or for a share of the prompts the canary."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import orjson

from metarm.records import Prompt
from metarm.versions import version_number
from service.live_model import LiveModel, LoadedVersion

CANARY = "canary"


def prompt_key(prompt: Prompt) -> bytes:
    """A digest of a prompt, the same in every process; a string is one message of the user."""
    turns = [("user", prompt)] if isinstance(prompt, str) else [(m["role"], m["content"]) for m in prompt]
    return blake2b(orjson.dumps(turns), digest_size=16).digest()


def place(key: bytes) -> float:
    """Where a prompt lies between 0 and 1: those below a share are the share."""
    return int.from_bytes(key[:8], "big") / 2**64


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that scores the `share` of the prompts."""

    version: LoadedVersion
    share: float

    def scores(self, prompt: Prompt) -> bool:
        return place(prompt_key(prompt)) < self.share


def canary_beside(current: LoadedVersion, live: LiveModel, min_version: str | None) -> Canary | None:
    """The canary of a request that pins no version; None where the label is not set, is a shadow, or names
    a version that is not in memory here or is older than `min_version`."""
    label = live.labels.get(CANARY)
    if label is None or label.shadow or label.share == 0 or current.name != live.current_name:
        return None
    version = live.loaded(label.version)
    if version is None or (min_version and version_number(version.name) < version_number(min_version)):
        return None
    return Canary(version, label.share)
