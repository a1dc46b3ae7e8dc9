"""The world: tasks whose right answer is known exactly, drafts of answers, and written responses.

A `Task` is a question with everything a writer may say about it. A `Draft` is the list of decisions behind one
answer (is it right, is it padded, does it flatter …). `writing.write` turns a task and a draft into text;
`gold.gold` judges the same pair exactly, without reading the text. A reward model thus sees the text, as a
human would, and the gold reward the decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Verdict = Literal["right", "near", "wrong"]
Claims = Mapping[Verdict, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True, slots=True)
class Task:
    """One question and the sentences an answer to it can be made of.

    `claims[verdict][part]` holds several wordings of the answer to one part of the question; every verdict
    answers the same number of parts. A near miss has the last part a little wrong and all others right. `steps`
    are true sentences that lead to the answer and stop short of stating it; `specious` sentences only sound as
    if they did. `check` verifies the right answer by another route. `topic` is a noun phrase for sentences
    about the question.
    """

    family: str
    prompt: str
    topic: str
    claims: Claims
    steps: tuple[str, ...]
    specious: tuple[str, ...]
    check: str

    @property
    def parts(self) -> int:
        """How many things the question asks for."""
        return len(self.claims["right"])


class Draft(NamedTuple):
    """The decisions behind one response; `decisions.DECISIONS` lists the options of each.

    `effort` shapes the other decisions and never the gold reward: in the initial policy's writing it
    makes good answers long, friendly and tidy.
    """

    effort: str
    answer: str
    coverage: str
    reasoning: str
    check: str
    certainty: str
    tone: str
    form: str
    closing: str
    voice: str
    padding: int
    praise: int
    repeats: int
    tangents: int


@dataclass(frozen=True, slots=True)
class Response:
    """One written answer, with the draft that it was written from."""

    task: Task
    draft: Draft
    text: str
