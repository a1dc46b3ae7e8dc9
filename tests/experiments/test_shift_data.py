from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from experiments.shifted.data import GROUP_SIZE, load
from experiments.shifted.variants import NAMES, RATES, TRAINED, across_prompts, trained
from metarm.errors import ConfigurationError
from metarm.model.encoding import Encoded
from metarm.records import Ascent
from tests.experiments.shift_files import PROMPTS, make_files, write
from trainer.batches import EncodedGroup


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_files(tmp_path / "shift")


def test_a_draw_of_training_pairs_is_the_same_every_time(folder: Path) -> None:
    one, other, everything = (
        load(folder, (), train_pairs=count, groups_a_prompt=1).train for count in (5, 5, None)
    )
    assert one == other
    assert len(one) == 5
    assert len(everything) == 2 * PROMPTS


def test_groups_hold_five_different_responses_and_their_neighbours_answer_other_prompts(folder: Path) -> None:
    groups = load(folder, ("weak",), train_pairs=None, groups_a_prompt=3).meta["weak"]
    assert len(groups) == 2 * PROMPTS  # of eleven responses, two whole groups
    assert all(len(group.responses) == GROUP_SIZE for group in groups)
    for place, group in enumerate(groups):
        neighbours = groups[place + 1 : place + GROUP_SIZE]
        assert all(other.prompt != group.prompt for other in neighbours)


def test_the_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"train_pairs\.jsonl\.gz"):
        load(tmp_path, (), train_pairs=None, groups_a_prompt=1)


def test_the_error_names_the_line_that_lacks_a_field(folder: Path) -> None:
    write(folder, "valid_pairs", [{"prompt": "p", "chosen": "c", "rejected": "r"}, {"prompt": "p"}])
    with pytest.raises(ConfigurationError, match=r"valid_pairs\.jsonl\.gz, line 2: no prompt, or no chosen"):
        load(folder, (), train_pairs=None, groups_a_prompt=1)


def test_every_ascent_has_a_rate() -> None:
    assert set(RATES) == set(get_args(Ascent))


def test_the_average_trains_the_variants_that_it_averages() -> None:
    assert [variant.name for variant in trained(["average"])] == ["joint"]
    assert [variant.name for variant in trained(NAMES)] == list(TRAINED)


def test_no_two_responses_of_a_group_in_the_shuffled_control_answer_one_prompt() -> None:
    groups = [
        EncodedGroup(str(prompt), [Encoded([prompt, column], None, False) for column in range(GROUP_SIZE)])
        for prompt in range(PROMPTS)
    ]
    shuffled = across_prompts(groups)
    assert all(len({response.ids[0] for response in group.responses}) == GROUP_SIZE for group in shuffled)
    texts = sorted(tuple(response.ids) for group in shuffled for response in group.responses)
    assert texts == sorted(tuple(response.ids) for group in groups for response in group.responses)
