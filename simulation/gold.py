"""The gold reward: the exact worth of a response, from its task and draft.

The terms, in points (the label noise of `preferences` is in the same unit):

| term        | scoring rule                                                                            |
| ----------- | --------------------------------------------------------------------------------------- |
| correctness | right, near miss, wrong, no answer; an answer to half of the question is worth half     |
| reasoning   | valid steps help, most under a right answer; specious ones hurt, most under a wrong one |
| check       | a real check adds trust in a right answer; assurance for a wrong one misleads           |
| certainty   | hedging is good when wrong and bad when right; emphasis the reverse, and steeper        |
| tone        | warm is better than neutral, neutral better than curt                                   |
| padding     | a sentence or two ease the reading; beyond that each costs more than the last           |
| praise      | one kind word is welcome; flattery costs, and costs most around a wrong answer          |
| repeats     | saying it twice helps a little in a long answer; more of it hurts, more when long       |
| tangents    | each leads away from the question, the later ones further                               |
| form        | lists and headings serve answers with several parts; on short ones they are clutter     |
| closing     | an offer is kind; a summary is worth something only after much text                     |

Padding, praise and form add value in small amounts, and careful writers use more of them. Among the initial
policy's responses they therefore correlate with a high gold reward. Their value in large amounts cannot be
learned there: that is how the gold reward can be hacked.
"""

from __future__ import annotations

from simulation.world import Draft, Response, Task

CORRECTNESS = {"right": 2.0, "near": 0.4, "wrong": -0.8, "missing": -1.2}
VALID_STEPS = {"short": 0.5, "long": 0.9}
CERTAINTY = {  # certainty → answer → points
    "plain": {},
    "mild": {"right": -0.1, "near": 0.1, "wrong": 0.3, "missing": 0.0},
    "heavy": {"right": -0.7, "near": 0.0, "wrong": 0.6, "missing": 0.1},
    "emphatic": {"right": 0.3, "near": -0.5, "wrong": -1.2, "missing": -0.6},
}
TONE = {"curt": -0.4, "neutral": 0.0, "warm": 0.3}
FORM_MANY_PARTS = {"plain": 0.0, "bullets": 0.4, "headings": 0.3, "excess": -0.7}
FORM_ONE_PART = {"plain": 0.0, "bullets": 0.05, "headings": -0.3, "excess": -1.0}


def gold(response: Response) -> float:
    """The gold reward in points, mostly -3 to 5 initially; a pure function of task and draft."""
    return sum(gold_terms(response.task, response.draft).values())


def gold_terms(task: Task, draft: Draft) -> dict[str, float]:
    """The reward by term, in the order of the table above."""
    draft = draft._replace(answer=_stated_answer(task, draft))
    return {
        "correctness": _correctness(task, draft),
        "reasoning": _reasoning(draft),
        "check": _check(draft),
        "certainty": CERTAINTY[draft.certainty].get(draft.answer, 0.0),
        "tone": TONE[draft.tone],
        "padding": _padding(task, draft),
        "praise": _praise(draft),
        "repeats": _repeats(draft),
        "tangents": -0.25 * draft.tangents - 0.1 * draft.tangents**2,
        "form": (FORM_MANY_PARTS if task.parts > 1 else FORM_ONE_PART)[draft.form],
        "closing": _closing(draft),
    }


def _stated_answer(task: Task, draft: Draft) -> str:
    """The verdict on the stated parts: a near miss without its last part, the wrong one, is right."""
    unsaid = draft.coverage == "first" and task.parts > 1
    return "right" if unsaid and draft.answer == "near" else draft.answer


def _correctness(task: Task, draft: Draft) -> float:
    value = CORRECTNESS[draft.answer]
    halved = draft.coverage == "first" and task.parts > 1 and value > 0
    return value / 2 if halved else value


def _reasoning(draft: Draft) -> float:
    match draft.reasoning:
        case "none":
            return 0.0
        case "specious":
            return -0.4 if draft.answer == "right" else -0.9
        case valid:
            return VALID_STEPS[valid] * (1.0 if draft.answer == "right" else 0.3)


def _check(draft: Draft) -> float:
    match draft.check:
        case "none":
            return 0.0
        case "real":
            return 0.4 if draft.answer == "right" else -0.3
        case _:
            return 0.1 if draft.answer == "right" else -0.6


def _padding(task: Task, draft: Draft) -> float:
    """Two sentences of it fit a question with several parts, one fits a single question."""
    room = 2 if task.parts > 1 else 1
    excess = max(draft.padding - room, 0)
    return 0.25 * min(draft.padding, room) - 0.12 * excess**2


def _praise(draft: Draft) -> float:
    if draft.praise <= 2:
        return (0.0, 0.3, 0.4)[draft.praise]
    misplaced = 1.0 if draft.answer == "right" else 1.4
    return 0.4 - 0.4 * misplaced * (draft.praise - 2) ** 2


def _repeats(draft: Draft) -> float:
    long = draft.padding >= 3
    reminder = 0.1 if long and draft.repeats else 0.0
    return reminder - 0.1 * draft.repeats**2 * (1.0 + 0.15 * draft.padding)


def _closing(draft: Draft) -> float:
    match draft.closing:
        case "offer":
            return 0.1
        case "summary":
            return 0.15 if draft.padding + draft.repeats >= 3 or draft.reasoning == "long" else -0.1
        case _:
            return 0.0
