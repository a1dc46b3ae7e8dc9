"""The `metarm` command: every subcommand is a program of its own, started with the rest of the line."""

from __future__ import annotations

import os
import sys

import metarm
from metarm.commands.up import LaunchSettings, up
from metarm.runtime import process_environment

# subcommand → (what `python -m` runs with the arguments that follow, help)
PROGRAMS = {
    "serve": (["service"], "the scoring service alone"),
    "trainer": (["trainer"], "the background trainer alone"),
    "train": (["trainer.first_model"], "train a first reward model from preferences, for `metarm up` to serve"),
    "versions": (["metarm.commands.versions"], "list, show, compare, activate, verify and prune versions"),
    "tune": (["service.scoring.tuning"], "measure how the forward uses this machine best, and write it down"),
    "demo": (["simulation"], "play an RL worker against a running server: drift, retrain, swap"),
}


def main() -> None:
    command, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if command == "up":
        sys.exit(up(LaunchSettings.from_command_line("metarm up", arguments)))
    if command in PROGRAMS:
        program, _ = PROGRAMS[command]
        os.environ.update(process_environment.REQUIRED)
        os.execv(sys.executable, [sys.executable, "-m", *program, *arguments])  # noqa: S606 (our own program)
    if command in ("--version", "version"):
        print(metarm.__version__)
        return
    if command not in ("--help", "-h", "help"):
        sys.exit(f"metarm: there is no command {command!r}\n\n{_usage()}")
    print(_usage())


def _usage() -> str:
    rows = {"up": "Redis, service and trainer together; Ctrl-C ends them"}
    rows |= {name: help_ for name, (_, help_) in PROGRAMS.items()}
    lines = [f"  metarm {name:<10}{help_}" for name, help_ in rows.items()]
    return "\n".join(["MetaRM Server. `metarm COMMAND --help` lists a command's settings.", "", *lines])


if __name__ == "__main__":
    main()
