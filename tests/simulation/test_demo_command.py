from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.cli import main


def test_a_demo_without_a_server_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port, and none answers
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--url", url, "--out", str(tmp_path / "demo")]) == 1
    captured = capsys.readouterr()
    assert url in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "demo").exists()


def test_groups_of_one_response_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--responses", "1"])
    assert refused.value.code == 2
    assert "at least 2" in capsys.readouterr().err


def test_the_simulation_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, simulation.cli; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
