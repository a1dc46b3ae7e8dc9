"""A few fixed texts that every version scores when it is made, and must score alike when it is loaded.

The probe finds what digests cannot: a tokenizer library that splits texts differently, a forward that
computes wrong scores on this machine, non-finite weights.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metarm.errors import InvalidVersionError
from metarm.model.encoding import Encoded, Encoder
from metarm.model.reward_model import RewardModel

TEXTS = (
    ("What is 17 + 25?", ("17 + 25 is 42.", "It is 41!", "")),
    ("Name a river that flows north.", ("The Nile.", "Le Rhône coule au sud, 尼罗河 flows north.")),
    ("Why is the sky blue? " * 8, ("Air scatters short waves more than long ones. " * 6, "It is not.")),
)
REPEATS = 32  # a template that writes one of two texts at random passes once in 2^31
ADDRESS = re.compile(r"<function |\bat 0x[0-9a-f]", re.IGNORECASE)  # as Python prints objects
TOLERANCE = 1e-3  # of the probe's spread, or of 1 if that is larger: processors round differently


def take(model: RewardModel) -> list[dict[str, Any]]:
    """The manifest's record of each text: a digest of its tokens, and its score (null if it is not finite)."""
    samples = _encoded(model)
    return [
        {"tokens": _digest(sample), "score": score if math.isfinite(score) else None}
        for sample, score in zip(samples, _scores(model, samples), strict=True)
    ]


def check(model: RewardModel, manifest: Mapping[str, Any]) -> None:
    """Raises InvalidVersionError if `model`, loaded in float32, has non-finite weights or scores, or differs
    from the probe in its manifest. Nothing is compared without a probe in the manifest, or for a text that
    was truncated, now or when the version was made."""
    name = f"{manifest.get('name')}"
    for parameter, weight in model.network.named_parameters():
        if not torch.isfinite(weight).all():
            raise InvalidVersionError(f"{name}: {parameter} has non-finite weights")
    samples, record = _encoded(model), manifest.get("probe")
    if record is not None:
        _compare_tokens(name, samples, record)
    if max(max(sample.ids) for sample in samples) >= model.network.get_input_embeddings().num_embeddings:
        raise InvalidVersionError(f"{name}: its tokenizer produces token ids outside the network's vocabulary")
    scores = _scores(model, samples)
    if not all(math.isfinite(score) for score in scores):
        raise InvalidVersionError(f"{name}: its scores are not finite")
    if record is not None:
        _compare_scores(name, samples, scores, record)


def is_repeatable(encoder: Encoder) -> bool:
    """Whether the probe has the same tokens each time, as far as one process shows: the address of an object,
    which a template may write, is another one in the next."""
    texts = [encoder.text(prompt, response) for prompt, responses in TEXTS for response in responses]
    return not any(map(ADDRESS.search, texts)) and len({_digest_of_all(encoder) for _ in range(REPEATS)}) == 1


def _digest_of_all(encoder: Encoder) -> bytes:
    return hashlib.sha256(b"".join(sample.key for group in encoder.encode(TEXTS) for sample in group)).digest()


def _compare_tokens(name: str, samples: Sequence[Encoded], record: Sequence[Mapping[str, Any]]) -> None:
    if len(record) != len(samples):
        raise InvalidVersionError(f"{name}: its probe has {len(record)} texts instead of {len(samples)}")
    for sample, text in zip(samples, record, strict=True):
        if _comparable(sample, text) and text["tokens"] != _digest(sample):
            raise InvalidVersionError(
                f"{name}: its tokens of the probe's texts differ from those recorded when it was made"
            )


def _compare_scores(
    name: str, samples: Sequence[Encoded], scores: Sequence[float], record: Sequence[Mapping[str, Any]]
) -> None:
    recorded = [text["score"] for text in record]
    if None in recorded:
        raise InvalidVersionError(f"{name}: its manifest records non-finite scores of the probe")
    allowed = TOLERANCE * max(1.0, max(recorded) - min(recorded))
    for sample, score, text in zip(samples, scores, record, strict=True):
        if _comparable(sample, text) and abs(score - text["score"]) > allowed:
            raise InvalidVersionError(
                f"{name}: it scores a text of the probe {score:.6g}; its manifest records {text['score']:.6g}"
            )


def _encoded(model: RewardModel) -> list[Encoded]:
    return [sample for group in model.encoder.encode(list(TEXTS)) for sample in group]


@torch.inference_mode()
def _scores(model: RewardModel, samples: Sequence[Encoded]) -> list[float]:
    scores: list[float] = model.scores(samples).tolist()
    return scores


def _comparable(sample: Encoded, text: Mapping[str, Any]) -> bool:
    return not sample.truncated and text["tokens"] is not None


def _digest(sample: Encoded) -> str | None:
    return None if sample.truncated else hashlib.sha256(sample.key).hexdigest()
