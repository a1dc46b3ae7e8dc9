"""`python -m` of each package: what happens before it starts anything."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys

import pytest

import metarm
from metarm.errors import EXIT_CONFIGURATION


def run(monkeypatch: pytest.MonkeyPatch, package: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [package, *arguments])
    monkeypatch.delitem(sys.modules, package, raising=False)  # a fresh start, as by `python -m`
    runpy.run_module(package, run_name="__main__")


def test_metarm_prints_its_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "metarm", "--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == metarm.__version__


@pytest.mark.parametrize(
    ("package", "option", "value"),
    [
        ("service", "port", "seventy"),
        ("trainer", "steps", "none"),
        ("trainer.first_model", "steps", "none"),
    ],
)
def test_an_invalid_setting_ends_a_process_before_it_starts_anything(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    option: str,
    value: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, package, f"--{option}", value)
    assert ended.value.code == EXIT_CONFIGURATION
    (line,) = capsys.readouterr().err.splitlines()
    assert option in line
    assert "integer" in line


def service_refusal(**settings: str) -> str:
    """The reason for which `python -m service` does not start."""
    environment = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1", **settings}
    command = [sys.executable, "-m", "service"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == EXIT_CONFIGURATION
    (line,) = ended.stderr.splitlines()
    return line.removeprefix("metarm serve: ")


def test_a_service_whose_port_is_taken_ends_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reason = service_refusal(METARM_PORT=str(port))
    assert reason.startswith(f"cannot listen on 127.0.0.1:{port} (Address already in use)")


@pytest.mark.parametrize("host", ["192.0.2.7", "no-such-host.invalid", "1.2.3.4.5", "x" * 300])
def test_a_service_whose_address_cannot_be_used_ends_with_the_reason(host: str) -> None:
    reason = service_refusal(METARM_HOST=host, METARM_ALLOW_OPEN="true")
    assert reason.startswith(f"cannot listen on {host}:8080 (")


@pytest.mark.parametrize("url", [None, "foo://x", "redis://h:notaport", "redis://127.0.0.1:1/0?bogus=1"])
def test_a_service_without_a_usable_redis_url_ends_with_the_reason(url: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    if url:
        environment["REDIS_URL"] = url
    command = [sys.executable, "-m", "service"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == EXIT_CONFIGURATION
    assert ended.stderr.startswith("metarm serve: ")
    assert "REDIS_URL" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_simulation_lists_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "simulation", "--help")
    assert ended.value.code == 0
    assert "demo" in capsys.readouterr().out
