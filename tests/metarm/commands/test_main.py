"""The `metarm` command: its help, its version, the programs it starts and the arguments it rejects."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metarm
from metarm.commands.main import PROGRAMS, Metarm
from metarm.errors import EXIT_CONFIGURATION


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


def test_the_command_prints_the_version_of_the_package() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"{metarm.__version__}\n")


@pytest.mark.parametrize("command", ["serve", "trainer", "train", "tune"])
def test_a_program_receives_the_remaining_arguments(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: metarm {command} ")
    assert "--data-dir" in done.stdout
    assert run(command, "--no-such-option").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["down"], "down"),
        (["up", "--prot", "1"], "--prot"),
        (["--up"], "--up"),
        (["versions", "show"], "NAME"),
    ],
)
def test_wrong_arguments_exit_with_status_2(arguments: list[str], named: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert named in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["up", "--port", "0"], "port"),
        (["up", "--port", "seventy"], "port"),
        (["up", "--host", "a b"], "host"),
        (["up", "--data-dir", sys.executable], sys.executable),
        (["tune", "--port", "seventy"], "port"),
        (["versions", "prune", "--keep-versions", "0"], "keep_versions"),
        (["versions", "list", "--data-dir", sys.executable], sys.executable),
    ],
)
def test_an_invalid_value_exits_with_status_78_and_one_line(arguments: list[str], named: str) -> None:
    done = run(*arguments)
    assert done.returncode == EXIT_CONFIGURATION
    (line,) = done.stderr.splitlines()
    assert named in line
