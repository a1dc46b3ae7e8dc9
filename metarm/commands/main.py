"""The `metarm` command.

`up` and `versions` run in this process. The others are programs that need their environment set before
torch loads: each replaces this process and receives the rest of the command line.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from pydantic import BaseModel, Field
from pydantic_settings import CliSubCommand, CliToggleFlag

import metarm
from metarm.commands.versions import Versions
from metarm.runtime import process_environment
from metarm.runtime.closed_pipe import ends_quietly
from metarm.runtime.settings import CommandGroup

PROGRAMS = {
    "serve": "service",
    "trainer": "trainer",
    "train": "trainer.first_model",
    "evaluate": "trainer.evaluate",
    "tune": "service.tune",
    "demo": "simulation",
}


class Program(BaseModel):
    """A subcommand that `metarm --help` lists; it parses its own arguments."""


class Metarm(CommandGroup):
    """MetaRM Server. `metarm COMMAND --help` lists the settings of a command."""

    version: CliToggleFlag[bool] = Field(False, description="Print the version and exit.")
    up: CliSubCommand[Program] = Field(
        description="Run Redis, the service and the trainer together; Ctrl-C stops them."
    )
    serve: CliSubCommand[Program] = Field(description="Run the scoring service alone.")
    trainer: CliSubCommand[Program] = Field(description="Run the background trainer alone.")
    train: CliSubCommand[Program] = Field(
        description="Train a first reward model from preferences, which `metarm up` can serve."
    )
    evaluate: CliSubCommand[Program] = Field(
        description="Measure versions on labelled pairs, each against its parent."
    )
    versions: CliSubCommand[Versions] = Field(
        description="List, show, compare, activate, verify and prune versions."
    )
    tune: CliSubCommand[Program] = Field(
        description="Measure how the forward uses this machine best, and record the result."
    )
    demo: CliSubCommand[Program] = Field(
        description="Play an RL worker against a private server: drift, retrain, swap."
    )


@ends_quietly()
def main() -> int:
    """The exit status: that of the command; 2 for wrong arguments. Programs replace this process."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in PROGRAMS:
        _replace_process(PROGRAMS[command], rest)
    if command == "up":
        from metarm.commands.up import LaunchSettings  # all settings: other commands need not wait for them

        return LaunchSettings.from_command_line("metarm up", rest).run()
    if command in ("--version", "version"):
        print(metarm.__version__)
        return 0
    return Metarm.run_from("metarm", ["--help" if command == "help" else command, *rest])


def _replace_process(module: str, arguments: list[str]) -> NoReturn:
    os.environ.update(process_environment.REQUIRED)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 (our own program)


if __name__ == "__main__":
    sys.exit(main())
