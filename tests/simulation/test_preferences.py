from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import orjson

import metarm
from simulation.gold import gold
from simulation.policy import Policy
from simulation.preferences import PACKAGED_PAIRS, label, preference_pairs, write_preferences
from simulation.prompts import Split, draw_tasks, split_of

PACKAGED = Path(metarm.__file__).parent / "data" / "demo_preferences.jsonl.gz"


def rows() -> list[dict[str, str]]:
    return [orjson.loads(line) for line in gzip.decompress(PACKAGED.read_bytes()).splitlines()]


def test_packaged_preferences_regenerate_byte_for_byte(tmp_path: Path) -> None:
    write_preferences(tmp_path / "again.jsonl.gz", PACKAGED_PAIRS, seed=0)
    assert (tmp_path / "again.jsonl.gz").read_bytes() == PACKAGED.read_bytes()


def test_packaged_preferences_are_prompts_with_two_different_answers() -> None:
    pairs = rows()
    assert len(pairs) == len({pair["prompt"] for pair in pairs}) == 2400
    assert all(pair.keys() == {"prompt", "chosen", "rejected"} for pair in pairs)
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    assert PACKAGED.stat().st_size < 600_000


def test_preferences_share_no_prompt_with_training_or_evaluation() -> None:
    prompts = {row["prompt"] for row in rows()}
    assert {split_of(prompt) for prompt in prompts} == {Split.PREFERENCES}
    for split in (Split.TRAINING, Split.EVALUATION):
        drawn = draw_tasks(split, 500, np.random.default_rng(0))
        assert prompts.isdisjoint(task.prompt for task in drawn)


def test_labels_without_noise_follow_gold() -> None:
    pairs = preference_pairs([Policy.initial()], 100, np.random.default_rng(1), noise=0.0)
    assert all(gold(chosen) >= gold(rejected) for chosen, rejected in pairs)


def test_label_noise_is_bradley_terry() -> None:
    rng = np.random.default_rng(2)
    task = draw_tasks(Split.PREFERENCES, 1, rng)[0]
    first, second = Policy.initial().sample(task, 2, rng)
    gap = gold(first) - gold(second)
    assert gap != 0
    wins = np.mean([label(first, second, 2.0, rng)[0] is first for _ in range(4000)])
    assert abs(wins - 1 / (1 + np.exp(-gap / 2.0))) < 0.03
