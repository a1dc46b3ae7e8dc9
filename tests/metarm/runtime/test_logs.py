"""Log lines of one process, as text for people or as JSON, with secrets masked in every field."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios

import pytest

from service.settings import ServiceSettings

KEY, PASSWORD = "key-3141592653", 'p@ss "word"'
URL = "redis://user:p%40ss%20%22word%22@127.0.0.1:6379"

SPEAK = """
import logging, sys
from metarm.runtime import logs
from service.settings import ServiceSettings

logs.configure("service", ServiceSettings(redis_url=sys.argv[1], score_keys=[sys.argv[2]]))
log = logging.getLogger("some.library")
logs.about_request("request-1")
with logs.about_job("job-1"):
    log.warning("of %s and %s", sys.argv[1], sys.argv[2], extra={"version": "v000007", "url": sys.argv[1]})
log.debug("nobody asked")
try:
    raise ValueError('p@ss "word"')
except ValueError:
    log.exception("with a traceback")
logs.announce("ready\\nTry this")
logs.refuse("metarm", "it cannot be")
raise RuntimeError(f"the end of {sys.argv[2]} and http://a:other-secret@host")
"""


def speak(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SPEAK, URL, KEY],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("format_", ["console", "json"])
def test_no_log_line_contains_a_secret(format_: str) -> None:
    done = speak(METARM_LOG_FORMAT=format_, WANDB_API_KEY="request-1")
    output = done.stdout + done.stderr
    assert "***" in output
    for secret in (
        KEY,
        PASSWORD,
        json.dumps(PASSWORD)[1:-1],
        "p%40ss%20%22word%22",
        "other-secret",
        "request-1",
    ):
        assert secret not in output


def test_a_json_line_is_one_object_with_the_bound_fields() -> None:
    done = speak(METARM_LOG_FORMAT="json")
    assert done.stdout == ""
    warning, error, ready, refused, last = (json.loads(line) for line in done.stderr.splitlines())
    assert (warning["request_id"], warning["job"], warning["version"]) == ("request-1", "job-1", "v000007")
    assert (warning["level"], warning["logger"], warning["process"]) == ("warning", "some.library", "service")
    assert warning["timestamp"].endswith("Z")
    assert error["exception"].startswith("Traceback")
    assert "job" not in error
    assert ready["message"] == "ready\nTry this"
    assert (refused["level"], refused["message"]) == ("critical", "it cannot be")
    assert "RuntimeError" in last["exception"]


def test_a_console_line_is_readable_text() -> None:
    done = speak()
    assert done.stdout == "metarm: ready\nTry this\n"
    first = done.stderr.splitlines()[0]
    assert " service WARNING of redis://user:***@127.0.0.1:6379 and ***" in first
    assert "job=job-1" in first
    assert "request_id=request-1" in first
    assert "metarm: it cannot be" in done.stderr.splitlines()


def test_api_keys_and_the_redis_password_count_as_secrets() -> None:
    settings = ServiceSettings(redis_url=URL, score_keys=["one"], admin_keys=["two"])
    assert {"one", "two", PASSWORD, "p%40ss%20%22word%22"} == set(settings.secrets)
    assert ServiceSettings().secrets == []


@pytest.mark.parametrize(("format_", "terminal"), [("console", True), ("json", True), ("console", False)])
def test_progress_bars_appear_only_on_a_terminal_with_text_logs(format_: str, terminal: bool) -> None:
    count = """
from metarm.runtime import logs
from metarm.runtime.progress import progress_bar
from metarm.runtime.settings import ProcessSettings
logs.configure("metarm", ProcessSettings())
assert list(progress_bar([1, 2, 3], "counting", "number")) == [1, 2, 3]
"""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    error = theirs if terminal else subprocess.PIPE
    done = subprocess.run(
        [sys.executable, "-c", count],
        env={**os.environ, "METARM_LOG_FORMAT": format_},
        stderr=error,
        check=True,
    )
    os.close(theirs)
    output = _read(ours) if terminal else done.stderr
    assert (b"counting" in output) == (format_ == "console" and terminal)


def _read(terminal: int) -> bytes:
    output = b""
    try:
        while chunk := os.read(terminal, 4096):
            output += chunk
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return output
