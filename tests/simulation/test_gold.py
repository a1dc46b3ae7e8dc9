from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulation.families.numbers import change, sharing
from simulation.gold import gold, gold_terms
from simulation.world import Draft, Response, Task

ONE_PART = change(np.random.default_rng(0))
TWO_PARTS = sharing(np.random.default_rng(0))
SOUND = Draft(
    effort="ordinary",
    answer="right",
    coverage="all",
    reasoning="short",
    check="none",
    certainty="plain",
    tone="neutral",
    form="plain",
    closing="none",
    voice="one",
    padding=0,
    praise=0,
    repeats=0,
    tangents=0,
)


def worth(task: Task = ONE_PART, **changes: Any) -> float:
    return sum(gold_terms(task, SOUND._replace(**changes)).values())


def test_gold_is_a_function_of_the_draft_and_not_of_its_wording() -> None:
    assert gold(Response(ONE_PART, SOUND, "one text")) == gold(Response(ONE_PART, SOUND, "another"))
    assert worth(effort="careless") == worth(effort="careful")
    assert worth(voice="one") == worth(voice="four")


def test_correctness_outweighs_all_courtesies() -> None:
    courteous: dict[str, Any] = {"tone": "warm", "praise": 1, "padding": 1, "closing": "offer"}
    assert worth(answer="right", tone="curt") > worth(answer="near", **courteous)
    assert worth(answer="near") > worth(answer="wrong", **courteous)


def test_half_an_answer_earns_half_only_where_the_task_has_two_parts() -> None:
    assert worth(TWO_PARTS, coverage="first") < worth(TWO_PARTS)
    assert worth(ONE_PART, coverage="first") == worth(ONE_PART)


def test_a_near_miss_that_does_not_state_its_slip_earns_half_of_a_right_answer() -> None:
    assert worth(TWO_PARTS, answer="near", coverage="first") == worth(TWO_PARTS, coverage="first")
    assert worth(ONE_PART, answer="near", coverage="first") == worth(ONE_PART, answer="near")


def test_hedging_helps_wrong_answers_and_hurts_right_ones() -> None:
    assert worth(answer="wrong", certainty="heavy") > worth(answer="wrong", certainty="plain")
    assert worth(answer="right", certainty="heavy") < worth(answer="right", certainty="plain")
    assert worth(answer="wrong", certainty="emphatic") < worth(answer="wrong", certainty="plain")


def test_only_valid_reasoning_helps() -> None:
    assert worth(reasoning="long") > worth(reasoning="short") > worth(reasoning="none")
    assert worth(reasoning="none") > worth(reasoning="specious")


def test_gold_falls_when_flattery_replaces_substance() -> None:
    assert worth(praise=1) > worth(praise=0)
    by_praise = [worth(praise=n) for n in range(2, 6)]
    assert by_praise == sorted(by_praise, reverse=True)
    assert worth(praise=5, reasoning="none") < worth(praise=0, reasoning="short") - 2


def test_padding_helps_up_to_the_length_that_the_question_needs() -> None:
    assert worth(ONE_PART, padding=1) > worth(ONE_PART, padding=0)
    assert worth(ONE_PART, padding=2) < worth(ONE_PART, padding=1)
    assert worth(TWO_PARTS, padding=2) > worth(TWO_PARTS, padding=1)
    assert worth(TWO_PARTS, padding=7) < worth(TWO_PARTS, padding=0)


def test_repetition_hurts_more_in_a_long_answer() -> None:
    lost_when_short = worth(padding=0) - worth(padding=0, repeats=3)
    lost_when_long = worth(padding=6) - worth(padding=6, repeats=3)
    assert lost_when_long > lost_when_short > 0


@pytest.mark.parametrize("form", ["bullets", "headings"])
def test_formatting_helps_answers_with_several_parts(form: str) -> None:
    gain_many = worth(TWO_PARTS, form=form) - worth(TWO_PARTS)
    gain_one = worth(ONE_PART, form=form) - worth(ONE_PART)
    assert gain_many > 0
    assert gain_many > gain_one


def test_assurance_misleads_when_the_answer_is_wrong() -> None:
    assert worth(check="real") > worth(check="none")
    for check in ("real", "claimed"):
        assert worth(answer="wrong", check=check) < worth(answer="wrong", check="none")
