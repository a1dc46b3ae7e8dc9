"""A child process of `metarm up`: restarted when it dies, stopped when the launcher ends.

processes.py has processes that are not restarted.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from metarm.errors import EXIT_CONFIGURATION
from metarm.runtime.logs import announce

GRACE_S = {"service": 45.0, "trainer": 30.0, "redis": 30.0}
RESTART_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0  # after this long alive, earlier deaths no longer count
PR_SET_PDEATHSIG = 1


class GivenUpError(Exception):
    """A child ended in a way that a restart would not fix. `status` is its exit status."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"{name} ended ({ending(status)}); a restart would not help")
        self.status = status


class Child:
    """One process and its restarts."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._started = 0.0
        self._start_at = 0.0

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=die_with_parent,
        )
        self._started = time.monotonic()

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of the newest process; None before it starts."""
        return self._process.pid if self._process else None

    def exit_code(self) -> int | None:
        """None before it starts and while it runs; negative after a signal."""
        return self._process.poll() if self._process else None

    def revive(self, *, starting: bool) -> None:
        """Restart it if it is dead, after a pause that grows with every early death.

        Raises GivenUpError if a setting was wrong, or if it exited by itself while the system is still
        `starting`.
        """
        code = self.exit_code()
        if code == EXIT_CONFIGURATION or (starting and code is not None and code >= 0):
            raise GivenUpError(self.name, code)
        now = time.monotonic()
        if code is None:
            return
        if self._start_at == 0.0:
            self._deaths = 1 if now - self._started > STEADY_S else self._deaths + 1
            pause = RESTART_PAUSES_S[min(self._deaths, len(RESTART_PAUSES_S)) - 1]
            self._start_at = now + pause
            announce(f"{self.name} ended ({ending(code)}); restart in {pause:g} s")
        elif now >= self._start_at:
            self._start_at = 0.0
            self.start()

    def stop(self) -> None:
        """Send SIGTERM; after GRACE_S, SIGKILL."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(GRACE_S[self.name])
        except subprocess.TimeoutExpired:
            announce(f"{self.name} did not end within {GRACE_S[self.name]:g} s; killing it")
            self._process.kill()
            self._process.wait()


def ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"status {code}"


def die_with_parent() -> None:
    """Called in a new process: SIGTERM once the thread that started it has ended, however that ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
