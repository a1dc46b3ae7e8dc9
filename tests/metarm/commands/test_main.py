"""The `metarm` command: its help, its version, the programs it starts and the arguments it rejects."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metarm
from metarm.commands.main import PROGRAMS, Metarm
from metarm.commands.up import GROUPS
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


@pytest.mark.parametrize("command", ["up", "serve", "trainer", "train", "tune", "demo", "versions list"])
def test_a_program_receives_the_remaining_arguments(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: metarm {command} ")
    assert "python -m" not in done.stdout
    assert ("--url" if command == "demo" else "--data-dir") in done.stdout
    refused = run(*command.split(), "--no-such-option")
    assert refused.returncode == 2
    assert "--no-such-option" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "metarm: unknown command 'trian': did you mean 'train'?"),
        (["versions", "shwo", "v000001"], "metarm: unknown command 'shwo': did you mean 'show'?"),
        (["qqq"], "metarm: unknown command 'qqq': the commands are up, serve, "),
    ],
)
def test_an_unknown_command_is_named_with_the_nearest(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_launcher_lists_the_settings_of_both_processes_in_groups() -> None:
    shown = run("up", "--help").stdout
    both, service, trainer = (shown.index(f"{title}:") for title in GROUPS)
    assert both < shown.index("--redis-url") < service
    assert service < shown.index("--retrain {manual,auto}") < trainer
    assert service < shown.index("--port") < trainer < shown.index("--ascent ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["down"], "down"),
        (["up", "--prot", "1"], "--prot"),
        (["up", "--retran", "auto"], "--retran"),
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
        (["up", "--retrain", "sometimes"], "retrain"),
        (["up", "--steps", "0"], "steps"),
        (["up", "--score-keys", "a,"], "METARM_SCORE_KEYS"),
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
