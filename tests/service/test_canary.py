from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from metarm.records import Prompt
from service.canary import place, prompt_key

PROMPTS = [f"What is {number} + {number * 7}?" for number in range(20_000)]


def test_a_share_is_that_share_of_the_prompts() -> None:
    places = [place(prompt_key(prompt)) for prompt in PROMPTS]
    for share in (0.01, 0.1, 0.5, 0.9):
        assert sum(where < share for where in places) / len(places) == pytest.approx(share, abs=0.01)
    assert all(0 <= where < 1 for where in places)


def test_a_larger_share_keeps_the_prompts_of_the_smaller() -> None:
    smaller = {prompt for prompt in PROMPTS if place(prompt_key(prompt)) < 0.1}
    assert smaller <= {prompt for prompt in PROMPTS if place(prompt_key(prompt)) < 0.2}


def test_a_prompt_lies_at_the_same_place_in_every_process() -> None:
    code = "from service.canary import prompt_key; print(prompt_key('Wörter, 尼罗河').hex())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == prompt_key("Wörter, 尼罗河").hex()


def test_a_text_and_the_one_message_that_says_it_are_one_prompt() -> None:
    assert prompt_key("Why?") == prompt_key([{"role": "user", "content": "Why?"}])


@pytest.mark.parametrize(
    "other",
    [
        "Why? ",
        [{"role": "system", "content": "Why?"}],
        [{"role": "user", "content": "Why?"}, {"role": "user", "content": "Why?"}],
        [{"role": "user", "content": "Wh"}, {"role": "user", "content": "y?"}],
    ],
)
def test_other_conversations_are_other_prompts(other: Prompt) -> None:
    assert prompt_key(other) != prompt_key("Why?")


def test_the_order_of_a_messages_fields_does_not_matter() -> None:
    message: Any = {"content": "Why?", "role": "user"}
    assert prompt_key([message]) == prompt_key("Why?")
