"""`metarm` itself: what it lists, what it refuses, what it starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metarm
from metarm.commands.main import PROGRAMS, Metarm


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metarm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_help_lists_every_command(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 0
    commands = Metarm.model_fields.keys() - {"version"}
    assert commands == {"up", "versions", *PROGRAMS}
    assert all(f"\n    {command} " in done.stdout for command in commands)


def test_the_version_is_that_of_the_package() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"{metarm.__version__}\n")


@pytest.mark.parametrize("command", ["serve", "trainer", "train", "tune"])
def test_a_program_receives_the_rest_of_the_line(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: metarm {command} ")
    assert "--data-dir" in done.stdout
    assert run(command, "--no-such-option").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["down"], "down"),
        (["up", "--port", "0"], "port"),
        (["up", "--prot", "1"], "--prot"),
        (["--up"], "--up"),
    ],
)
def test_wrong_arguments_are_status_two(arguments: list[str], named: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
