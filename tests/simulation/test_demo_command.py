from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from metarm.errors import EXIT_CONFIGURATION
from metarm.runtime.processes import Process, without_settings
from simulation.cli import main
from tests.tiny import Kind
from trainer.preferences import PACKAGED

SMALL = ["--rounds", "1", "--prompts", "2", "--responses", "2", "--measured-prompts", "2"]


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


def test_a_key_without_a_url_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--api-key", "secret"])
    assert refused.value.code == 2
    assert "--url" in capsys.readouterr().err


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
    posts = 0

    def do_GET(self) -> None:
        progress = {"step": 1, "steps": 1}
        job = {"job": "job-1", "status": "published", "candidate": "v000002", "progress": progress}
        self._answer({"status": "ready", "version": type(self).served} if self.path == "/ready" else job)

    def do_POST(self) -> None:
        type(self).posts += 1
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


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of LongerIsBetter, which has answered nothing yet."""
    LongerIsBetter.served, LongerIsBetter.posts = "v000001", 0
    with ThreadingHTTPServer(("127.0.0.1", 0), LongerIsBetter) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def asked(url: str, out: Path, answer: bytes) -> tuple[int, str]:
    """The demo on a terminal whose user types `answer`: its exit status, and what the terminal showed."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "simulation", "--url", url, "--out", str(out), *SMALL]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end) as process:
        os.close(end)
        os.write(terminal, answer)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(terminal, 4096):
                shown += part
        os.close(terminal)
    return process.returncode, shown.decode()


def test_on_a_terminal_the_demo_says_what_it_changes_and_goes_ahead_only_after_yes(tmp_path: Path) -> None:
    with served() as url:
        for answer in (b"n\n", b"\n"):
            status, shown = asked(url, tmp_path, answer)
            assert status == 1
            assert f"changes the server at {url}, which serves v000001" in shown
            assert "2 groups of a toy policy, 'demo'" in shown
            assert "and 4 or more that are only measured" in shown
            assert "nothing was changed" in shown
            assert LongerIsBetter.posts == 0
        status, shown = asked(url, tmp_path, b"y\n")
        assert status == 0, shown
        assert (tmp_path / "demo.json").is_file()


def test_without_a_terminal_the_demo_changes_no_server_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with served() as url:
        assert main(["--url", url, "--out", str(tmp_path / "demo"), *SMALL]) == 2
        assert LongerIsBetter.posts == 0
    captured = capsys.readouterr()
    assert "--yes" in captured.err
    assert f"changes the server at {url}" in captured.err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("picture", [True, False], ids=["with-matplotlib", "without-matplotlib"])
def test_a_demo_writes_its_figures_and_with_matplotlib_its_picture(
    picture: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not picture:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    with served() as url:
        assert main(["--url", url, "--yes", "--out", str(tmp_path), *SMALL]) == 0
    figures = orjson.loads((tmp_path / "demo.json").read_bytes())
    assert [checkpoint["step"] for checkpoint in figures["checkpoints"]] == [0, 1]
    assert len(figures["after_retrain"]) == 2
    assert (tmp_path / "demo.png").is_file() == picture
    assert ("pip install 'metarm-server[demo]'" in capsys.readouterr().err) != picture


def demo(folder: Path, model: Path, *options: str) -> Process:
    """`metarm demo` on a private server that serves this model as it is, trained on the packaged pairs."""
    apart = {
        "METARM_PREFERENCES": str(PACKAGED),
        "TMPDIR": str(folder),
        "METARM_MODEL": str(model),
        "METARM_PORT": "1",
        "METARM_RETRAIN": "nonsense",
    }
    command = [sys.executable, "-m", "simulation", "--out", str(folder / "out"), *SMALL, *options]
    return Process(command, folder / "output.txt", {**without_settings(), **apart})


def test_a_model_without_preferences_is_refused_before_a_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("METARM_PREFERENCES", "PREFERENCES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("METARM_MODEL", str(tmp_path))
    assert main(["--out", str(tmp_path / "out"), *SMALL]) == EXIT_CONFIGURATION
    assert "METARM_MODEL needs METARM_PREFERENCES too" in capsys.readouterr().err


@pytest.mark.slow
def test_by_default_the_demo_runs_on_a_private_server_that_is_gone_afterwards(
    tmp_path: Path, checkpoint: Callable[[Kind], Path]
) -> None:
    """The two groups are too few for a retrain: the server refuses it, and the command ends with its reason."""
    with demo(tmp_path, checkpoint("bert")) as process:
        assert process.wait(240) == 1
    first, *_, last, gone = [line for line in process.output.splitlines() if line]
    found = re.fullmatch(
        r"private server on (http://127.0.0.1:\d+); its data and log are in (\S+) until .*", first
    )
    assert found is not None, process.output
    url, folder = found.groups()
    assert "reward model v000001; 1 rounds of 2 prompts" in process.output
    said = {last, gone}
    assert f"the private server has stopped, and {folder} is deleted" in said
    assert any("2 unused sample groups" in line for line in said)
    assert not Path(folder).exists()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_demo_and_its_private_server(
    number: signal.Signals, tmp_path: Path, checkpoint: Callable[[Kind], Path]
) -> None:
    with demo(tmp_path, checkpoint("bert"), "--rounds", "100000") as process:
        process.wait_until(lambda: "reward model v000001" in process.output, timeout_s=180)
        (folder,) = tmp_path.glob("metarm-demo-*")
        process.kill(number)
        assert process.wait(180) == (130 if number == signal.SIGINT else 128 + number)
    assert f"the private server has stopped, and {folder} is deleted" in process.output
    assert not folder.exists()
    url = process.output.split()[3].rstrip(";")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")
