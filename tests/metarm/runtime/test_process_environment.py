from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarm.errors import ConfigurationError
from metarm.runtime import process_environment

PROGRAM = """
import json, os, sys
from metarm.runtime import process_environment
print("started", flush=True)
process_environment.ensure_set()
process_environment.check()
names = process_environment.REQUIRED
values = {n: os.environ.get(n) for n in names}
print(json.dumps([values, sys.argv, sys.flags.utf8_mode, os.getpid()]), flush=True)
"""


def run(command: list[str], environment: dict[str, str]) -> tuple[int, list[str]]:
    """The process id and the output lines of a command that runs with `environment` alone."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return process.pid, output.splitlines()


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "passive"}])
def test_a_process_without_the_variables_restarts_itself_with_them(
    tmp_path: Path, given: dict[str, str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    pid, lines = run([sys.executable, "-X", "utf8", str(script), "--port", "8 0"], given)
    assert lines[:-1] == ["started", "started"]
    assert json.loads(lines[-1]) == [process_environment.REQUIRED, [str(script), "--port", "8 0"], 1, pid]


def test_a_program_given_as_text_restarts_itself_too() -> None:
    pid, lines = run([sys.executable, "-c", PROGRAM, "x"], {})
    assert json.loads(lines[-1]) == [process_environment.REQUIRED, ["-c", "x"], sys.flags.utf8_mode, pid]


def test_a_process_with_the_variables_does_not_restart(tmp_path: Path) -> None:
    _, lines = run([sys.executable, "-c", PROGRAM], dict(process_environment.REQUIRED))
    assert lines[:-1] == ["started"]


def test_the_check_passes_when_the_variables_are_set() -> None:
    assert process_environment.REQUIRED.items() <= os.environ.items()
    process_environment.check()


def test_the_check_names_what_is_missing_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    with pytest.raises(ConfigurationError) as raised:
        process_environment.check()
    assert "OMP_WAIT_POLICY=active" in raised.value.message
    assert "MALLOC_TRIM_THRESHOLD_=8589934592" in raised.value.message
    assert "MALLOC_MMAP_THRESHOLD_" not in raised.value.message
