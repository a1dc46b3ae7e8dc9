"""Commands whose reader leaves end quietly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarm.store.versions import VersionStore

QUIETLY = {0, 141}


def run_unread(*command: str, cwd: Path | None = None) -> tuple[int, str]:
    """Run a command whose stdout nobody reads; its exit status and stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False, cwd=cwd
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    store = VersionStore(tmp_path / "data" / "versions")
    store.prepare()
    name, folder = store.stage()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    store.publish(name, {"parent": None, "method": "metarm", "note": "x" * 100_000})
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["versions", "show", "v000001"],
        ["versions", "show", "v000001", "--json"],
        ["versions", "list"],
        ["versions", "verify"],
        ["versions", "activate", "v000001"],
        ["versions", "prune", "--without-leases"],
        ["--version"],
        *[[command, "--help"] for command in ("up", "train", "demo")],
    ],
)
def test_a_command_that_prints_ends_quietly(arguments: list[str], filled: Path) -> None:
    status, said = run_unread(sys.executable, "-m", "metarm", *arguments, cwd=filled)
    assert said == ""
    assert status in QUIETLY


def test_another_broken_pipe_is_an_error() -> None:
    program = (
        "from metarm.runtime.closed_pipe import ends_quietly\n"
        "with ends_quietly(): raise BrokenPipeError('socket')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BrokenPipeError: socket" in done.stderr
