"""Child processes of a benchmark: servers on free ports of 127.0.0.1, and workers told what to do by line."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
import psutil

from bench.places import ROOT, THREADS
from metarm.runtime import process_environment

START_S = 300.0
END_S = 20.0
OWN_NAMES = ("METARM_", "REDIS_URL", "PREFERENCES", "OMP_", "MKL_", "KMP_")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process' environment without our settings and tuning, the arms' common thread count, `settings`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(OWN_NAMES) and name not in process_environment.REQUIRED
    }
    common = {
        "OMP_NUM_THREADS": str(THREADS),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    return {**kept, **common, **settings}


class Child:
    """A process in a session of its own, its output in a file; it and its children end with the block."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        settings: Mapping[str, str],
        *,
        working_folder: Path | None = None,
    ) -> None:
        """`folder` is created for the output, and is the working directory unless another is given."""
        folder.mkdir(parents=True, exist_ok=True)
        self._command = list(command)
        self._working_folder = working_folder or folder
        self._output = folder / "output.txt"
        self._environment = clean_environment(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 (the command lines of the arms)
                self._command,
                cwd=self._working_folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=self._stdout(output.fileno()),
                stderr=output,
                start_new_session=True,
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        family = self._family()
        for process in family[:1]:
            _signal(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(family[:1], END_S)
        alive += psutil.wait_procs(family[1:], 2.0)[1]
        for process in alive:
            _signal(process, signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait(END_S)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None  # noqa: S101 (inside the block)
        return self._process

    def cpu_s(self) -> float:
        """CPU seconds, so far, of the process and its children, also of those that have ended."""
        total = 0.0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def rss(self) -> int:
        """Resident bytes of the process and its children; pages they share count once for each."""
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def failure(self, what: str) -> RuntimeError:
        """An error that shows the end of the process' output."""
        last = self._output.read_text(errors="replace").strip().splitlines()[-15:]
        return RuntimeError("\n".join([f"{' '.join(self._command[:4])} … {what}:", *last]))

    def _stdout(self, output: int) -> int:
        return output

    def _family(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Server(Child):
    """A child that answers HTTP at `url` once it is ready."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        settings: Mapping[str, str],
        port: int,
        ready_path: str,
        *,
        working_folder: Path | None = None,
    ) -> None:
        super().__init__(command, folder, settings, working_folder=working_folder)
        self.url = f"http://127.0.0.1:{port}"
        self._ready_url = self.url + ready_path

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None:
                raise self.failure("ended")
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready within {START_S:.0f} s")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready_url, timeout=5.0) as answer:  # noqa: S310 (ours)
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False


class Worker(Child):
    """A child that answers each JSON line with a JSON line; its first says that it is ready."""

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        stdin = self.process.stdin
        assert stdin is not None  # noqa: S101 (a pipe)
        stdin.write(orjson.dumps(question) + b"\n")
        stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        stdout = self.process.stdout
        assert stdout is not None  # noqa: S101 (a pipe)
        line = stdout.readline()
        if not line:
            raise self.failure("ended")
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def _stdout(self, output: int) -> int:  # noqa: ARG002 (the answers, not the file)
        return subprocess.PIPE


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
