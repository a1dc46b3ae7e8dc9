"""Progress of a long step: a bar on a terminal; elsewhere lines in the log."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import termios

import pytest

from metarm.runtime.progress import Progress, progress_bar

STEPS = """
import time
from metarm.runtime import logs
from metarm.runtime.progress import Progress
from metarm.runtime.settings import ProcessSettings
logs.configure("metarm", ProcessSettings())
with Progress("training", 3) as progress:
    for loss in (0.75, 0.5, 0.25):
        progress.step(loss=loss)
print("on stdout")
"""


@pytest.mark.parametrize("format_", ["console", "json"])
def test_a_terminal_shows_a_bar_with_figures_and_json_logs_get_lines(format_: str) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    done = subprocess.run(
        [sys.executable, "-c", STEPS],
        env={**os.environ, "METARM_LOG_FORMAT": format_, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        check=True,
    )
    shown = os.read(ours, 65_536).decode()
    os.close(theirs)
    os.close(ours)
    assert done.stdout == b"on stdout\n"
    assert "training" in shown
    if format_ == "console":
        assert "3/3" in shown
        assert "loss 0.250" in shown
        assert "training: 3 of 3" not in shown
    else:
        assert [line.startswith("{") for line in shown.splitlines()] == [True]


def test_without_a_terminal_progress_is_logged_periodically_and_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), Progress("training", 3) as steps:
        for _ in range(3):
            steps.step(loss=0.5)
    assert [record.getMessage()[:16] for record in caplog.records] == ["training: 3 of 3"]
    assert "loss 0.500" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO), Progress("training", 3, line_every_s=-1.0) as steps:
        for _ in range(3):
            steps.step()
    assert len(caplog.records) == 3


def test_a_progress_bar_yields_the_items_unchanged() -> None:
    assert list(progress_bar(["a", "b"], "reading", "files")) == ["a", "b"]
    assert list(progress_bar([], "reading", "files")) == []
