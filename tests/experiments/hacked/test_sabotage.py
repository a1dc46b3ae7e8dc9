from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import orjson
import pytest

from experiments.hacked.sabotage import SABOTAGES, WIDE_MARGIN, spoiled
from simulation.policy import Policy
from simulation.preferences import encode_preferences, preference_pairs


def rows(data: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in gzip.decompress(data).splitlines()]


@pytest.fixture(scope="module")
def honest() -> bytes:
    return encode_preferences(preference_pairs([Policy.initial(0)], 60, np.random.default_rng(1)))


def texts(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["prompt"], row["chosen"], row["rejected"]


def test_every_sabotage_keeps_prompts_and_responses_and_is_deterministic_to_the_byte(honest: bytes) -> None:
    before = {(p, *sorted((c, r))) for p, c, r in map(texts, rows(honest))}
    for name, sabotage in SABOTAGES.items():
        data = spoiled(honest, sabotage)
        assert {(p, *sorted((c, r))) for p, c, r in map(texts, rows(data))} == before, name
        assert spoiled(honest, sabotage) == data
        assert (rows(data) == rows(honest)) == (name == "honest")


def test_the_sabotage_reversed_swaps_every_label(honest: bytes) -> None:
    back = rows(spoiled(honest, SABOTAGES["reversed"]))
    assert [(p, r, c) for p, c, r in map(texts, back)] == [texts(row) for row in rows(honest)]


def test_the_sabotage_length_chooses_the_longer_response(honest: bytes) -> None:
    by_length = rows(spoiled(honest, SABOTAGES["length"]))
    assert all(len(row["chosen"]) >= len(row["rejected"]) for row in by_length)
    assert any(texts(row) != texts(old) for row, old in zip(by_length, rows(honest), strict=True))


def test_the_sabotage_coin_swaps_about_half_of_the_labels(honest: bytes) -> None:
    by_coin = rows(spoiled(honest, SABOTAGES["coin"]))
    turned = np.mean([texts(row) != texts(old) for row, old in zip(by_coin, rows(honest), strict=True)])
    assert 0.3 < turned < 0.7


def test_the_sabotage_constant_has_both_orders_of_every_pair_and_scale_a_wide_margin(honest: bytes) -> None:
    both = [texts(row) for row in rows(spoiled(honest, SABOTAGES["constant"]))]
    assert sorted(both) == sorted((p, r, c) for p, c, r in both)
    assert len(both) == 120
    wide = rows(spoiled(honest, SABOTAGES["scale"]))
    assert [texts(row) for row in wide] == [texts(row) for row in rows(honest)]
    assert {row["margin"] for row in wide} == {WIDE_MARGIN}
