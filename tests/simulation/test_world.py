from __future__ import annotations

import numpy as np
import pytest

from simulation import phrases
from simulation.decisions import DECISION
from simulation.families import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, Family
from simulation.phrases import VOICES, in_voice
from simulation.policy import Policy
from simulation.prompts import Split, draw_tasks, split_of

EVERY_FAMILY = [*IN_DISTRIBUTION.items(), *OUT_OF_DISTRIBUTION.items()]


@pytest.mark.parametrize(("name", "family"), EVERY_FAMILY, ids=[name for name, _ in EVERY_FAMILY])
def test_near_misses_err_in_the_last_part_and_wrong_answers_somewhere(name: str, family: Family) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        task = family(rng)
        assert task.family == name
        right, near, wrong = (task.claims[v] for v in ("right", "near", "wrong"))
        assert len(right) == len(near) == len(wrong) == task.parts
        assert right[:-1] == near[:-1]
        assert set(right[-1]).isdisjoint(near[-1]), task.prompt
        assert any(set(a).isdisjoint(b) for a, b in zip(right, wrong, strict=True)), task.prompt


@pytest.mark.parametrize(("name", "family"), EVERY_FAMILY, ids=[name for name, _ in EVERY_FAMILY])
def test_every_family_has_plenty_of_prompts(name: str, family: Family) -> None:
    rng = np.random.default_rng(0)
    assert len({family(rng).prompt for _ in range(500)}) > 400, name


def test_same_seed_gives_the_same_texts() -> None:
    def texts(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        tasks = draw_tasks(Split.TRAINING, 20, rng)
        return [r.text for task in tasks for r in Policy.initial(3).sample(task, 3, rng)]

    assert texts(7) == texts(7)
    assert texts(7) != texts(8)


def test_splits_share_no_prompt_for_any_seed() -> None:
    for split in Split:
        for task in draw_tasks(split, 100, np.random.default_rng(11)):
            assert split_of(task.prompt) is split


def test_responses_read_as_sentences() -> None:
    rng = np.random.default_rng(5)
    for task in draw_tasks(Split.EVALUATION, 60, rng, {**IN_DISTRIBUTION, **OUT_OF_DISTRIBUTION}):
        for response in Policy.initial().sample(task, 4, rng):
            assert "{" not in response.text
            assert "}" not in response.text
            first_letter = next(c for c in response.text if c.isalnum() or c == "“")
            assert not first_letter.islower(), response.text
            assert response.text.rstrip("*-\n")[-1] in ".!?”", response.text


def test_every_voice_has_words_for_every_draft() -> None:
    pools = {name: pool for name, pool in vars(phrases).items() if isinstance(pool, tuple) and name != "VOICES"}
    most = {
        name.upper(): len(DECISION[name].options) - 1 for name in ("padding", "praise", "repeats", "tangents")
    }
    for name, pool in pools.items():
        for voice in VOICES:
            assert len(in_voice(pool, voice)) >= most.get(name, 1), name
