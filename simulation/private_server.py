"""A private `metarm up` with its own Redis, port and data folder, and nothing of the user's own settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from metarm.client import RewardClient
from metarm.errors import ClientError
from metarm.runtime.addresses import url_of
from metarm.runtime.processes import START_S, Process, free_port, without_settings

HOST = "127.0.0.1"
STOP_S = 120.0


class PrivateServer(Process):
    """Inside the block it runs and serves, and nothing else has used it: its sample log holds one run alone."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, start_s: float = START_S) -> None:
        """Its data are in `folder`/data, its log in `folder`/server.txt; `settings` by their environment names.
        `start_s` is the time for its first version."""
        port = free_port()
        self._start_s = start_s
        self.url = url_of(HOST, port)
        ours = {"METARM_DATA_DIR": str(folder / "data"), "METARM_HOST": HOST, "METARM_PORT": str(port)}
        super().__init__(
            [sys.executable, "-m", "metarm", "up"],
            folder / "server.txt",
            {**without_settings(), **settings, **ours},
            folder=folder,  # no .env of the user's
            grace_s=STOP_S,
            dies_with_parent=True,
        )

    def wait_started(self) -> None:
        self.serving(timeout_s=self._start_s)

    def serving(self, version: str | None = None, timeout_s: float = START_S) -> str:
        """Wait until a version is served and a trainer runs, and return that version; with `version`, until
        it is that one. Raises ProcessError, and what the server refuses."""
        served: list[str] = []

        def ready() -> bool:
            try:
                state = once.ready()
            except ClientError as error:
                if error.http_status not in (None, 503):
                    raise
                return False
            if state["status"] == "ready" and version in (None, state["version"]):
                served.append(str(state["version"]))
            return bool(served)

        with RewardClient(self.url, retries=0) as once:
            self.wait_until(ready, timeout_s)
        return served[0]
