"""Task and draft → text that reads like an assistant's answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulation import phrases
from simulation.families.wording import pick, pick_some
from simulation.phrases import in_voice
from simulation.world import Draft, Task

LONG_ANSWER_SENTENCES = 6


def write(task: Task, draft: Draft, rng: np.random.Generator) -> str:
    """The answer in words. The draft fixes what is said; `rng` picks among wordings and orders."""
    answer = _answer(task, draft, rng)
    reasons = _reasons(task, draft, rng)
    padding = _some(phrases.PADDING, draft.padding, task, draft, rng)
    praise = _some(phrases.PRAISE, draft.praise, task, draft, rng)
    lead = int(rng.integers(len(padding) + 1)) if padding else 0

    opening = praise[:2]
    if draft.tone == "warm":
        opening = [*opening, _one(phrases.WARM_OPENINGS, task, draft, rng)]
    opening += padding[: lead // 2]
    notes = [*padding[lead // 2 :], *praise[2:], *_with_claim(phrases.REPEATS, draft.repeats, task, draft, rng)]
    rng.shuffle(notes)
    notes += _some(phrases.TANGENTS, draft.tangents, task, draft, rng)
    closing = _closing(task, draft, rng)

    core = [("Answer", answer), ("Why", reasons)]
    if reasons and rng.random() < 0.35:
        core.reverse()
    return _laid_out([("", opening), *core, ("Notes", notes), ("", closing)], draft.form)


def _claim(task: Task, draft: Draft, part: int, rng: np.random.Generator) -> str:
    """The sentence that answers `part`, or evades it."""
    match draft.answer:
        case "right" | "near" | "wrong":
            return pick(rng, task.claims[draft.answer][part])
        case _:
            return _one(phrases.EVASIONS, task, draft, rng)


def _answer(task: Task, draft: Draft, rng: np.random.Generator) -> list[str]:
    parts = 1 if draft.coverage == "first" or draft.answer == "missing" else task.parts
    sentences = [_claim(task, draft, part, rng) for part in range(parts)]
    match draft.certainty:
        case "mild":
            sentences.append(_one(phrases.MILD_HEDGES, task, draft, rng))
        case "heavy":
            sentences.append(_one(phrases.HEAVY_HEDGES, task, draft, rng))
        case "emphatic":
            sentences.append(_one(phrases.EMPHASIS, task, draft, rng))
    return sentences


def _reasons(task: Task, draft: Draft, rng: np.random.Generator) -> list[str]:
    sentences: list[str] = []
    match draft.reasoning:
        case "short":
            sentences.append(pick(rng, task.steps))
        case "long":
            sentences.extend(task.steps)
        case "specious":
            sentences.extend(task.specious if rng.random() < 0.5 else [pick(rng, task.specious)])
    match draft.check:
        case "real":
            sentences.append(task.check)
        case "claimed":
            sentences.append(_one(phrases.CLAIMED_CHECKS, task, draft, rng))
    return sentences


def _closing(task: Task, draft: Draft, rng: np.random.Generator) -> list[str]:
    sentences: list[str] = []
    match draft.closing:
        case "summary":
            sentences.extend(_with_claim(phrases.SUMMARIES, 1, task, draft, rng))
        case "offer":
            sentences.append(_one(phrases.OFFERS, task, draft, rng))
    if draft.tone == "curt":
        sentences.append(_one(phrases.CURT_ENDINGS, task, draft, rng))
    return sentences


def _some(pool: Sequence[str], count: int, task: Task, draft: Draft, rng: np.random.Generator) -> list[str]:
    """`count` different sentences of the pool, in the draft's voice."""
    return [s.format(topic=task.topic) for s in pick_some(rng, in_voice(pool, draft.voice), count)]


def _one(pool: Sequence[str], task: Task, draft: Draft, rng: np.random.Generator) -> str:
    return _some(pool, 1, task, draft, rng)[0]


def _with_claim(
    pool: Sequence[str], count: int, task: Task, draft: Draft, rng: np.random.Generator
) -> list[str]:
    """`count` sentences that repeat the first part of the answer."""
    templates = pick_some(rng, in_voice(pool, draft.voice), count)
    return [template.format(claim=_claim(task, draft, 0, rng)) for template in templates]


def _laid_out(sections: Sequence[tuple[str, list[str]]], form: str) -> str:
    """Sections of sentences as plain paragraphs, with bullets, with headings, or with too much of it."""
    present = [(heading, sentences) for heading, sentences in sections if sentences]
    if form == "plain":
        long = sum(len(sentences) for _, sentences in present) > LONG_ANSWER_SENTENCES
        return ("\n\n" if long else " ").join(" ".join(sentences) for _, sentences in present)
    blocks: list[str] = []
    for heading, sentences in present:
        running = " ".join(sentences)
        listed = "\n".join(f"- {sentence}" for sentence in sentences)
        match form:
            case "bullets":
                blocks.append(listed if heading in {"Answer", "Why"} else running)
            case "headings":
                blocks.append(f"**{heading}**\n{running}" if heading else running)
            case _:
                bold = "\n".join(f"- **{sentence}**" for sentence in sentences)
                blocks.append(f"## {heading}\n{bold}\n---" if heading else bold)
    return "\n\n".join(blocks)
