from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulation.figure import draw, save
from simulation.optimise import Groups
from simulation.prompts import Split, split_of
from simulation.report import change_rows, change_sentences, checkpoint_row, checkpoint_table
from simulation.rounds import Plan, gold_of, lengths_of, play, rescore

PLAN = Plan(rounds=3, prompts=4, responses=3, measured_prompts=6, measure_every=2)


class LongerIsBetter:
    """A simple reward model; it keeps the groups that it scores."""

    def __init__(self) -> None:
        self.rewarded: list[tuple[int, Groups]] = []

    def reward(self, groups: Groups, step: int) -> list[list[float]]:
        self.rewarded.append((step, groups))
        return lengths_of(groups)


def test_a_run_measures_the_start_the_end_and_every_nth_round() -> None:
    judge = LongerIsBetter()
    checkpoints = list(play(PLAN, judge.reward, lengths_of))
    assert [checkpoint.step for checkpoint in checkpoints] == [0, 2, 3]
    assert [step for step, _ in judge.rewarded] == [0, 1, 2]
    assert checkpoints[0].kl == 0.0
    assert checkpoints[0].spread_to_first == 1.0
    assert checkpoints[-1].kl > 0.0


def test_rewarded_and_measured_prompts_differ() -> None:
    judge = LongerIsBetter()
    checkpoints = list(play(PLAN, judge.reward, lengths_of))
    rewarded = {group[0].task.prompt for _, groups in judge.rewarded for group in groups}
    measured = {group[0].task.prompt for checkpoint in checkpoints for group in checkpoint.groups}
    assert {split_of(prompt) for prompt in rewarded} == {Split.TRAINING}
    assert {split_of(prompt) for prompt in measured} == {Split.EVALUATION}
    assert len(measured) == PLAN.measured_prompts


def test_the_same_plan_and_scores_give_the_same_texts_and_figures() -> None:
    one, other = (list(play(PLAN, LongerIsBetter().reward, lengths_of)) for _ in range(2))
    assert one == other
    assert list(play(replace(PLAN, seed=1), LongerIsBetter().reward, lengths_of)) != one


def test_second_scores_are_measured_on_the_same_responses() -> None:
    last = list(play(PLAN, LongerIsBetter().reward, lengths_of))[-1]
    unchanged = rescore(last, lengths_of, PLAN.seed)
    assert unchanged.after == last.measurement
    assert unchanged.accuracy_change.value == 0.0
    perfect = rescore(last, gold_of, PLAN.seed)
    assert perfect.after.accuracy.value == 1.0


def test_the_sentences_claim_no_more_than_the_intervals_allow() -> None:
    checkpoints = list(play(PLAN, LongerIsBetter().reward, lengths_of))
    heading = checkpoint_table().splitlines()[-1]
    assert len(checkpoint_row(checkpoints[0])) == len(heading)

    same = [rescore(c, lengths_of, 0) for c in (checkpoints[0], checkpoints[-1])]
    assert change_sentences(same).count("no difference could be shown") == 2
    better = [rescore(c, gold_of, 0) for c in (checkpoints[0], checkpoints[-1])]
    assert "higher than before" in change_sentences(better)
    backwards = rescore(
        replace(checkpoints[0], scores=gold_of(checkpoints[0].groups)),
        lambda groups: [[-value for value in group] for group in gold_of(groups)],
        0,
    )
    assert "lower than before" in change_sentences([backwards])
    rows = change_rows("v000001", "v000002", better).splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["policy step 0"] * 2 + ["policy step 3"] * 2


@pytest.mark.parametrize("after", [None, "v000002"])
def test_the_picture_is_drawn_with_and_without_a_new_version(tmp_path: Path, after: str | None) -> None:
    checkpoints = list(play(PLAN, LongerIsBetter().reward, lengths_of))
    rescorings = [rescore(checkpoints[-1], gold_of, 0)] if after else []
    save(draw(checkpoints, rescorings, "v000001", after), tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
