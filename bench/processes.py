"""Child processes of a benchmark: servers on free ports of 127.0.0.1, and workers that answer JSON lines."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil

from bench.places import ROOT, THREADS
from metarm.runtime import process_environment
from metarm.runtime.addresses import url_of
from metarm.runtime.processes import Process, without_settings

END_S = 20.0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that children are ended
TUNING = ("OMP_", "MKL_", "KMP_")


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without this project's settings and tuning, with the arms' common thread count
    and `settings`."""
    kept = {
        name: value
        for name, value in without_settings().items()
        if not name.startswith(TUNING) and name not in process_environment.REQUIRED
    }
    common = {
        "OMP_NUM_THREADS": str(THREADS),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    return {**kept, **common, **settings}


class Child(Process):
    """A process of a benchmark, with its CPU time and memory."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        settings: Mapping[str, str],
        *,
        working_folder: Path | None = None,
        piped: bool = False,
    ) -> None:
        """`folder` is created for the output; it is the working directory unless `working_folder` is given."""
        super().__init__(
            command,
            folder / "output.txt",
            clean_environment(settings),
            folder=working_folder or folder,
            piped=piped,
            grace_s=END_S,
        )

    def cpu_s(self) -> float:
        """CPU seconds so far of the process and its children, ended ones included."""
        total = 0.0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def rss(self) -> int:
        """Resident bytes of the process and its children; shared pages count once for each process."""
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def _family(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.pid)
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
        self.url = url_of("127.0.0.1", port)
        self._ready_url = self.url + ready_path

    def wait_started(self) -> None:
        self.wait_until_answers(self._ready_url)


class Worker(Child):
    """A child that says that it is ready, and then answers JSON lines with JSON lines (bench/worker.py)."""

    def __init__(self, command: Sequence[str], folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(command, folder, settings, piped=True)

    def wait_started(self) -> None:
        self._read()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self.stdin.write(orjson.dumps(question) + b"\n")
        self.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self.stdout.readline()
        if not line:
            raise self.error("ended")
        answer: dict[str, Any] = orjson.loads(line)
        return answer
