from __future__ import annotations

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from metarm.errors import EXIT_CONFIGURATION
from simulation.cli import main


def test_a_demo_without_a_server_prints_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, so that no other process gets the port, and not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--url", url, "--out", str(tmp_path / "demo")]) == 1
    captured = capsys.readouterr()
    assert url in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("key", ["sécret", "sec ret", "secret\n", "${SECRET}", " "])
@pytest.mark.parametrize("source", ["--api-key", "METARM_API_KEY"])
def test_a_key_that_no_header_can_carry_is_refused_before_any_request(
    source: str, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if source == "METARM_API_KEY":
        monkeypatch.setenv(source, key)
    given = [source, key] if source == "--api-key" else []
    assert main(["--url", "http://127.0.0.1:1", *given]) == EXIT_CONFIGURATION
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"metarm demo: the key of {source} ")
    assert "cret" not in line


def test_an_empty_key_is_refused_on_the_command_line_and_unset_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", "http://127.0.0.1:1", "--api-key", ""]) == EXIT_CONFIGURATION
    monkeypatch.setenv("METARM_API_KEY", "")
    assert main(["--url", "http://127.0.0.1:1"]) == 1  # it tried
    assert "key" not in capsys.readouterr().err.splitlines()[-1]


def test_groups_of_one_response_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--responses", "1"])
    assert refused.value.code == 2
    assert "at least 2" in capsys.readouterr().err


def test_the_simulation_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, simulation.cli; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class LongerIsBetter(BaseHTTPRequestHandler):
    """A server that scores by the number of words; a retrain publishes a version with the same scores."""

    served = "v000001"

    def do_GET(self) -> None:
        progress = {"step": 1, "steps": 1}
        job = {"job": "job-1", "status": "published", "candidate": "v000002", "progress": progress}
        self._answer({"status": "ready", "version": type(self).served} if self.path == "/ready" else job)

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/retrain":
            type(self).served = "v000002"
            return self._answer({"job": "job-1"})
        version = body["version"]
        groups = [_scored(number, group["responses"], version) for number, group in enumerate(body["groups"])]
        return self._answer({"version": version, "groups": groups})

    def _answer(self, content: dict[str, Any]) -> None:
        data = orjson.dumps(content)
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name it has in http.server)
        """Log nothing."""


def _scored(number: int, responses: list[str], version: str) -> dict[str, Any]:
    scores = [float(len(response.split())) for response in responses]
    rest = {"tokens": [1] * len(scores), "truncated": [False] * len(scores)}
    return {"id": str(number), "version": version, "scores": scores, **rest}


@pytest.mark.parametrize("picture", [True, False], ids=["with-matplotlib", "without-matplotlib"])
def test_a_demo_writes_its_figures_and_with_matplotlib_its_picture(
    picture: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not picture:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(LongerIsBetter, "served", "v000001")
    small = ["--rounds", "1", "--prompts", "2", "--responses", "2", "--measured-prompts", "2"]
    with ThreadingHTTPServer(("127.0.0.1", 0), LongerIsBetter) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert main(["--url", url, "--out", str(tmp_path), *small]) == 0
        finally:
            server.shutdown()
            thread.join()
    figures = orjson.loads((tmp_path / "demo.json").read_bytes())
    assert [checkpoint["step"] for checkpoint in figures["checkpoints"]] == [0, 1]
    assert len(figures["after_retrain"]) == 2
    assert (tmp_path / "demo.png").is_file() == picture
    assert ("pip install 'metarm-server[demo]'" in capsys.readouterr().err) != picture
