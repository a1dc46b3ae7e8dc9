"""The Docker engine that the container tests run on, if there is one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
STARTER = ROOT.parent / "shared" / "tools" / "container-engine"  # `up` starts an engine, `env` says where
START_S = 900.0
PYTHON_IMAGE = "python:3.11-slim"


class NoEngineError(Exception):
    """There is no engine; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Engine:
    """`environment` selects this engine for the command line; `compose` is the command of Compose. `alone`: the
    engine reaches no image registry, and its base image has the wheels to install torch from. `started`: these
    tests started it."""

    environment: Mapping[str, str]
    compose: Sequence[str]
    alone: bool
    started: bool

    def docker(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """The output of the command. Raises AssertionError with all output if it fails."""
        return run(["docker", *arguments], self.environment, timeout_s)

    def close(self) -> None:
        """Stop the engine if these tests started it and no other container runs; its images remain."""
        if self.started and not self.docker("ps", "--quiet").strip():
            subprocess.run([STARTER, "down"], capture_output=True, check=False)


def find_engine() -> Engine:
    """The running engine, of DOCKER_HOST or the default, or else one that it starts. Raises NoEngineError."""
    environment = dict(os.environ)
    ours = not _answers(environment)
    if ours:
        if not STARTER.is_file():
            raise NoEngineError("no Docker engine answers `docker info`: none runs, and DOCKER_HOST names none")
        _start(environment)
    compose = next((c for c in (["docker", "compose"], ["docker-compose"]) if _works([*c, "version"])), None)
    if compose is None:
        raise NoEngineError("neither `docker compose` nor `docker-compose` is installed")
    found = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Config.Env}}", PYTHON_IMAGE],
        env=environment,
        capture_output=True,
        text=True,
    )
    return Engine(environment, compose, alone="PIP_FIND_LINKS=" in found.stdout, started=ours)


def run(command: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> str:
    result = subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert result.returncode == 0, f"{shlex.join(command)}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _start(environment: dict[str, str]) -> None:
    started = subprocess.run([STARTER, "up"], capture_output=True, text=True, timeout=START_S)
    if started.returncode != 0:
        raise NoEngineError(f"{STARTER} up: {started.stderr.strip()}")
    exports = subprocess.run([STARTER, "env"], capture_output=True, text=True, check=True).stdout
    for word in shlex.split(exports):
        name, is_set, value = word.partition("=")
        if is_set:
            environment[name] = value
    if not _answers(environment):
        raise NoEngineError(f"{STARTER} up succeeded, but no engine answers")


def _answers(environment: Mapping[str, str]) -> bool:
    return shutil.which("docker") is not None and _works(["docker", "info"], environment)


def _works(command: Sequence[str], environment: Mapping[str, str] | None = None) -> bool:
    try:
        return subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
