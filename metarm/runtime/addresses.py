"""Addresses of servers: the URL of a host and port, sockets that listen there, loopback."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Any, Literal

from metarm.errors import ConfigurationError

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (not bound here): its own loopback
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # this machine has no such address
Caller = Literal["here", "elsewhere"]


def url_of(host: str, port: int, caller: Caller = "here") -> str:
    """The URL at which a server that listens on `host` is reached. Where it listens on every address: from
    this machine (`here`) the loopback of the same family, from `elsewhere` this machine's name. The zone of an
    IPv6 address is not escaped: httpx, urllib and curl read it so."""
    host = _canonical(host)
    if host in EVERY_ADDRESS:
        host = EVERY_ADDRESS[host] if caller == "here" else socket.gethostname()
    return f"http://{_joined(host, port)}"


def without_brackets(host: str) -> str:
    """[::1], as URLs and Compose write it, → ::1."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than `localhost` counts as reachable."""
    try:
        return ipaddress.ip_address(without_brackets(host)).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to the addresses of `host` that this machine has, on one port, for a server to listen on.
    Raises ConfigurationError."""
    host = without_brackets(host)
    bound: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                chosen = bound[0].getsockname()[1] if bound else port
                bound.append(_bound(family, (address[0], chosen, *address[2:])))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                absent = error  # a name may have an IPv6 address where the machine has none
        if absent is not None and not bound:
            raise absent
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        for opened in bound:
            opened.close()
        raise ConfigurationError(
            f"cannot listen on {_joined(host, port)} ({_reason(error)}): set METARM_HOST and METARM_PORT"
        ) from error
    return bound


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
    except OSError:
        opened.close()
        raise
    return opened


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _canonical(host: str) -> str:
    """An IP address in its shortest form; any other host as it is."""
    host = without_brackets(host)
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
