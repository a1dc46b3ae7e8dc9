"""Which prompts a share of them is: by a hash, so that a prompt is always on the same side. No torch."""

from __future__ import annotations

from hashlib import blake2b

import orjson

from metarm.records import Prompt


def share_of(prompt: Prompt) -> float:
    """A prompt's own place in [0, 1), the same in every process: it is among a share s of all prompts
    where its place is below s."""
    data = orjson.dumps(prompt, option=orjson.OPT_SORT_KEYS)
    return (int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 11) / 2**53
