"""The share of prompts that a canary or a watch takes: by a hash, so that a prompt is always in or out."""

from __future__ import annotations

from hashlib import blake2b

import orjson

from metarm.records import Prompt


def share_of(prompt: Prompt) -> float:
    """A prompt's place in [0, 1), the same in every process. A share s of all prompts has places below s."""
    data = orjson.dumps(prompt, option=orjson.OPT_SORT_KEYS)
    return (int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 11) / 2**53
