from __future__ import annotations

from pathlib import Path

import pytest

from experiments.hacked.drill import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hacked", "reversed,size"], "there is no sabotage 'size'"),
        (["--before", "0"], "--before must be at least 1"),
        (["--after", "0"], "--after must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
    ],
)
def test_options_that_cannot_be_played_are_one_clear_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "out").exists()
