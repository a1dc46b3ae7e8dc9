"""Commands that are printed for the user work in the user's shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import metarm
from metarm.runtime.shell import metarm_command

HERE = str(Path(sys.executable).parent)


@pytest.mark.parametrize("path", [f"{HERE}:/usr/bin:/bin", "/usr/bin:/bin"])
def test_a_printed_command_runs_from_any_folder_whatever_the_path(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    command = metarm_command("--version")
    assert command.startswith("metarm ") == path.startswith(HERE)
    done = subprocess.run(["sh", "-c", command], env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout == f"{metarm.__version__}\n"


def test_the_shell_reads_each_argument_as_one() -> None:
    assert metarm_command("up", "--data-dir", "my data; $x").endswith(" up --data-dir 'my data; $x'")
