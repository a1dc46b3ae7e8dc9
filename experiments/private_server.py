"""A private `metarm up` with its own Redis, port and data folder, and nothing of the user's own settings."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from metarm.client import RewardClient
from metarm.errors import ClientError, MetaRMError

START_S = 300.0
STOP_S = 120.0
POLL_S = 0.2


class PrivateServer:
    """Inside the block it runs and serves, and nothing else has used it: its sample log holds one run alone."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Its data are in `folder`/data; `settings` by their environment names."""
        self._folder = folder
        self._port = _free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "metarm", "up"],
                env=self._environment(),
                cwd=self._folder,  # no .env of the user's
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            self.serving()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def serving(self, version: str | None = None, timeout_s: float = START_S) -> str:
        """The version served, once there is one and a trainer beside it, and it is `version` where that is
        asked for."""
        deadline = time.monotonic() + timeout_s
        with RewardClient(self.url, retries=0) as once:
            while True:
                try:
                    state = once.ready()
                    if state["status"] == "ready" and version in (None, state["version"]):
                        return str(state["version"])
                except ClientError as error:
                    if error.http_status not in (None, 503):
                        raise
                assert self._process is not None  # noqa: S101 (inside the block)
                if self._process.poll() is not None or time.monotonic() > deadline:
                    ending = self._output.read_text()[-2000:]
                    raise MetaRMError(
                        f"the server for this run does not serve {version or 'anything'}:\n{ending}"
                    )
                time.sleep(POLL_S)

    def _stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _environment(self) -> dict[str, str]:
        theirs = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("METARM_") and name not in ("REDIS_URL", "PREFERENCES")
        }
        ours = {"METARM_DATA_DIR": str(self._folder / "data"), "METARM_PORT": str(self._port)}
        return {**theirs, **self._settings, **ours}

    @property
    def _output(self) -> Path:
        return self._folder / "server.txt"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
