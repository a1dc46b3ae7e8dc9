"""A request's sequences in portions of bounded text, so that requests can be tokenised by turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from metarm.records import Prompt

Group = tuple[Prompt, Sequence[str]]  # a prompt and its responses
PORTION_CHARS = 64_000  # about 50 ms of work


def portions_of(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """The groups in order, divided: the sequences of a portion have at most PORTION_CHARS characters, or it is
    one sequence."""
    portion: list[Group] = []
    left = PORTION_CHARS
    for prompt, responses in groups:
        prompt_chars = chars_of(prompt)
        begin = 0
        for place, response in enumerate(responses):
            chars = prompt_chars + len(response)
            if chars > left and (portion or place > begin):
                yield [*portion, (prompt, responses[begin:place])]
                portion, left, begin = [], PORTION_CHARS, place
            left -= chars
        portion.append((prompt, responses[begin:]))
    if portion:
        yield portion


def chars_of(prompt: Prompt) -> int:
    """The characters of a prompt, or of the contents of its messages."""
    return len(prompt) if isinstance(prompt, str) else sum(len(turn["content"]) for turn in prompt)
