"""Processes that a program starts, waits for and ends: servers of tests, benchmarks and experiments.

`metarm up` has child.py for its own processes: those are restarted when they die, and write to the terminal.
Here a death is an error, which shows the end of the output.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import httpx

from metarm.errors import MetaRMError
from metarm.runtime.child import die_with_parent

START_S = 300.0
GRACE_S = 60.0
REST_S = 2.0  # for its children to end, once it has ended
POLL_S = 0.05
SHOWN_LINES = 40
OWN_SETTINGS = ("METARM_", "REDIS_URL", "PREFERENCES")
PORTS = range(20_000, 32_000)  # below those that the kernel gives to connections
APART = 997  # between the first ports that two processes try: neither takes a port that the other just found


class ProcessError(MetaRMError):
    """A process ended, did not end, or did not become ready."""


class Process:
    """A command in its own session, with its output in a file. It and its children end with the block."""

    def __init__(
        self,
        command: Sequence[str],
        output: Path,
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        piped: bool = False,
        grace_s: float = GRACE_S,
        dies_with_parent: bool = False,
    ) -> None:
        """`environment` is complete: nothing is inherited. `folder` is the working directory, by default this
        process's. `piped`: stdin and stdout are pipes, and only stderr goes to `output`, whose folder is
        created. `grace_s` is the time between SIGTERM and SIGKILL. `dies_with_parent`: it also ends if
        this process is killed; the thread that starts it must live as long as it should."""
        self._command = list(command)
        self._output = output
        self._environment = dict(environment)
        self._folder = folder
        self._piped = piped
        self._grace_s = grace_s
        self._dies_with_parent = dies_with_parent
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def stdin(self) -> IO[bytes]:
        return _pipe(self._started.stdin)

    @property
    def stdout(self) -> IO[bytes]:
        return _pipe(self._started.stdout)

    def start(self) -> None:
        """Start the process and call `wait_started`; if that raises, end the process."""
        self._output.parent.mkdir(parents=True, exist_ok=True)
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE if self._piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._piped else output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent if self._dies_with_parent else None,
            )
        try:
            self.wait_started()
        except BaseException:
            self.stop()
            raise

    def wait_started(self) -> None:
        """Wait until the process has started. By default this returns immediately; subclasses override it."""

    def kill(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = GRACE_S) -> int:
        """The exit status. If the process does not end in time, kills it and raises ProcessError."""
        try:
            return self._started.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.stop(0.0)
            raise self.error(f"did not end within {timeout_s:g} s") from None

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait for a condition that can only come true while this process runs. Raises ProcessError if the
        process ends or `timeout_s` has passed."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if not self.running:
                raise self.error("ended")
            if time.monotonic() > deadline:
                raise self.error(f"did not become ready within {timeout_s:g} s")
            time.sleep(POLL_S)

    def wait_until_answers(self, url: str, timeout_s: float = START_S) -> None:
        """Wait until a GET of `url` answers 200. Raises as `wait_until`."""

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return http.get(url).status_code == 200
            return False

        with httpx.Client(timeout=5.0, trust_env=False) as http:
            self.wait_until(answers, timeout_s)

    def stop(self, grace_s: float | None = None) -> bool:
        """Send SIGTERM; later SIGKILL, to it and its remaining children. False if it did not end within
        `grace_s` (default: the constructor's)."""
        if self._process is None:
            return True
        ended = True
        try:
            if self._process.poll() is None:
                self._process.terminate()
                self._process.wait(self._grace_s if grace_s is None else grace_s)
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            _end_group(self._process, rest_s=REST_S if ended else 0.0)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
        return ended

    def error(self, what: str) -> ProcessError:
        """An error that shows the end of the output."""
        last = self.output.strip().splitlines()[-SHOWN_LINES:]
        return ProcessError("\n".join([f"{' '.join(self._command[:4])} … {what}:", *last]))

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProcessError("the process has not been started")
        return self._process


def without_settings(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """`environment` (default: this process's) without MetaRM's settings."""
    given = os.environ if environment is None else environment
    return {name: value for name, value in given.items() if not name.startswith(OWN_SETTINGS)}


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on. Thousands of calls return different ports."""
    return next(port for port in _ports(os.getpid()) if _is_free(port))


@functools.cache
def _ports(process: int) -> Iterator[int]:
    start = process * APART % len(PORTS)
    return itertools.cycle([*PORTS[start:], *PORTS[:start]])


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _end_group(leader: subprocess.Popen[Any], rest_s: float) -> None:
    """Give the leader's children `rest_s` to end by themselves, then kill all of the group."""
    deadline = time.monotonic() + rest_s
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(leader.pid, 0)
            time.sleep(POLL_S)
        os.killpg(leader.pid, signal.SIGKILL)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ProcessError("the process was started without pipes")
    return stream
