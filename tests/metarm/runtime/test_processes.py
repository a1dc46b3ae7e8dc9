"""A child process leaves nothing behind, and the error of a failed start quotes the end of its output."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from metarm.runtime.processes import Process, ProcessError, free_port, without_settings
from tests.processes import wait_until


def shell(script: str, tmp_path: Path, *, piped: bool = False, grace_s: float = 60.0) -> Process:
    return Process(
        ["sh", "-c", script], tmp_path / "out" / "output.txt", os.environ, piped=piped, grace_s=grace_s
    )


def has_ended(pid: int) -> bool:
    """Whether the process has ended; a zombie counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_that_ends_too_early_raises_an_error_with_its_output(tmp_path: Path) -> None:
    with shell("echo no such setting; exit 3", tmp_path) as process:
        with pytest.raises(ProcessError, match=r"ended:\nno such setting"):
            process.wait_until(lambda: False)
        assert process.wait() == 3


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "trap '' TERM; sh -c 'trap \"\" TERM; sleep 600' & echo $!; sleep 600"
    process = shell(script, tmp_path, grace_s=0.2)
    process.start()
    process.wait_until(lambda: "\n" in process.output)
    assert not process.stop()
    assert not process.running
    wait_until(lambda: has_ended(int(process.output)))


def test_a_child_that_outlives_its_parent_is_killed(tmp_path: Path) -> None:
    with shell("sleep 600 & echo $!", tmp_path) as process:
        assert process.wait() == 0
        child = int(process.output)
        assert not has_ended(child)
    wait_until(lambda: has_ended(child))


def test_an_interrupted_start_leaves_no_process(tmp_path: Path) -> None:
    class NeverReady(Process):
        def wait_started(self) -> None:
            self.wait_until(lambda: False, timeout_s=0.1)

    process = NeverReady(["sleep", "600"], tmp_path / "output.txt", os.environ)
    with pytest.raises(ProcessError, match=r"within 0\.1 s"):
        process.start()
    assert not process.running


def test_a_piped_process_exchanges_lines_and_writes_its_errors_to_the_file(tmp_path: Path) -> None:
    with shell('read line; echo "$line again"; echo broken >&2', tmp_path, piped=True) as process:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"hello again\n"
        process.wait()
        assert process.output == "broken\n"


def test_processes_that_look_for_a_free_port_at_the_same_time_get_different_ports() -> None:
    code = "from metarm.runtime.processes import free_port; print(*(free_port() for _ in range(50)))"
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [port for process in started for port in process.communicate()[0].split()]
    assert len(set(found)) == len(found) == 100


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        assert free_port() != listener.getsockname()[1]


def test_a_clean_environment_contains_no_metarm_settings() -> None:
    given = {"METARM_PORT": "1", "REDIS_URL": "r", "PREFERENCES": "p", "PATH": "/bin"}
    assert without_settings(given) == {"PATH": "/bin"}
