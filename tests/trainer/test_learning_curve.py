from __future__ import annotations

from pathlib import Path

import pytest

from metarm.errors import ConfigurationError
from trainer import learning_curve
from trainer.learning_curve import LearningCurve, check_drawable

CURVE = LearningCurve([0.8, 0.6, 0.4, 0.2], [(0, 0.5), (2, 0.625), (4, 0.75)])


def test_the_record_contains_every_loss_and_every_accuracy_with_its_step() -> None:
    assert CURVE.record() == {
        "loss": [0.8, 0.6, 0.4, 0.2],
        "held_out_accuracy": [
            {"step": 0, "accuracy": 0.5},
            {"step": 2, "accuracy": 0.625},
            {"step": 4, "accuracy": 0.75},
        ],
    }


def test_the_table_averages_the_losses_since_the_previous_row() -> None:
    rows = [line.split() for line in CURVE.table().splitlines()[1:]]
    assert rows == [["0", "-", "0.500"], ["2", "0.7000", "0.625"], ["4", "0.3000", "0.750"]]


def test_a_long_table_is_thinned_and_keeps_both_ends() -> None:
    curve = LearningCurve([1.0] * 500, [(step, 0.5) for step in range(0, 501, 5)])
    steps = [int(line.split()[0]) for line in curve.table().splitlines()[1:]]
    assert len(steps) == 12
    assert (steps[0], steps[-1]) == (0, 500)
    assert steps == sorted(set(steps))


def test_without_held_out_pairs_the_table_has_no_rows() -> None:
    assert len(LearningCurve([1.0], []).table().splitlines()) == 1


def test_both_curves_are_drawn_as_a_png(tmp_path: Path) -> None:
    CURVE.draw(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_drawing_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_drawable(tmp_path / "curve.png")
    monkeypatch.setattr(learning_curve, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="matplotlib"):
        check_drawable(tmp_path / "curve.png")
