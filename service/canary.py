"""Which version scores a group: the current one, or for a share of the prompts the canary."""

from __future__ import annotations

from collections.abc import Sequence
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


def share_out(
    prompts: Sequence[Prompt], current: LoadedVersion, live: LiveModel, min_version: str | None
) -> list[LoadedVersion]:
    """The version that scores each prompt's group, of a request that pins none.

    A canary that is a shadow, is not in memory here, or is older than `min_version`, scores nothing.
    """
    label = live.labels.get(CANARY)
    canary = live.loaded(label.version) if label and label.share > 0 and not label.shadow else None
    too_old = canary and min_version and version_number(canary.name) < version_number(min_version)
    if label is None or canary is None or too_old or current.name != live.current_name:
        return [current] * len(prompts)
    return [canary if place(prompt_key(prompt)) < label.share else current for prompt in prompts]
