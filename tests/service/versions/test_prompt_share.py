from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from metarm.records import Prompt
from service.versions.prompt_share import share_of

PROMPTS = [f"What is {number} + {number * 7}?" for number in range(20_000)]


def test_a_share_selects_that_fraction_of_the_prompts() -> None:
    places = [share_of(prompt) for prompt in PROMPTS]
    for share in (0.01, 0.1, 0.5, 0.9):
        assert sum(place < share for place in places) / len(places) == pytest.approx(share, abs=0.01)
    assert all(0 <= place < 1 for place in places)


def test_a_larger_share_includes_the_prompts_of_a_smaller_one() -> None:
    smaller = {prompt for prompt in PROMPTS if share_of(prompt) < 0.1}
    assert len(smaller) > 1000
    assert smaller <= {prompt for prompt in PROMPTS if share_of(prompt) < 0.2}


def test_a_prompt_has_the_same_position_in_every_process() -> None:
    code = "from service.versions.prompt_share import share_of; print(share_of('Wörter, 尼罗河'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) == share_of("Wörter, 尼罗河")


@pytest.mark.parametrize(
    "other",
    [
        "Why? ",
        [{"role": "system", "content": "Why?"}],
        [{"role": "user", "content": "Why?"}, {"role": "user", "content": "Why?"}],
        [{"role": "user", "content": "Wh"}, {"role": "user", "content": "y?"}],
    ],
)
def test_different_conversations_have_different_positions(other: Prompt) -> None:
    assert share_of(other) != share_of([{"role": "user", "content": "Why?"}])


def test_the_order_of_a_messages_fields_does_not_matter() -> None:
    message: Any = {"content": "Why?", "role": "user"}
    assert share_of([message]) == share_of([{"role": "user", "content": "Why?"}])
