"""Addresses of servers: their URLs, and the sockets bound to them."""

from __future__ import annotations

import socket
import urllib.request

import httpx
import pytest

from metarm.errors import ConfigurationError
from metarm.runtime.addresses import bind, is_loopback, url_of


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("example.org", "http://example.org:80"),
        ("localhost", "http://localhost:80"),
        ("::1", "http://[::1]:80"),
        ("[::1]", "http://[::1]:80"),
        ("0:0:0:0:0:0:0:1", "http://[::1]:80"),
        ("2001:DB8::7", "http://[2001:db8::7]:80"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("[::]", "http://[::1]:80"),
        ("0::0", "http://[::1]:80"),
    ],
)
def test_a_url_names_the_address_that_a_caller_here_connects_to(host: str, url: str) -> None:
    assert url_of(host, 80) == url


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_url_for_others_names_this_machine_where_the_server_listens_on_every_address(host: str) -> None:
    assert url_of(host, 80, "elsewhere") == f"http://{socket.gethostname()}:80"
    assert url_of("::1", 80, "elsewhere") == "http://[::1]:80"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "LOCALHOST", "::1", "[::1]", "0::1"])
def test_an_address_of_this_machine_alone_is_a_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "fe80::1%lo", ""])
def test_any_other_address_is_no_loopback(host: str) -> None:
    assert not is_loopback(host)


def listening(host: str) -> list[socket.socket]:
    found = bind(host, 0)
    for each in found:
        each.listen()
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_bound_sockets_are_reached_at_their_url(host: str) -> None:
    _connects(host)


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_bound_ipv6_sockets_are_reached_at_their_url(host: str) -> None:
    _connects(host)


def _connects(host: str) -> None:
    sockets = listening(host)
    try:
        url = httpx.URL(url_of(host, sockets[0].getsockname()[1]))
        with socket.create_connection((url.host, url.port), timeout=10):
            pass
        assert urllib.request.Request(str(url)).host == url.netloc.decode()
    finally:
        for each in sockets:
            each.close()


def test_a_taken_port_is_refused_with_its_address() -> None:
    (taken,) = listening("127.0.0.1")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port} \(Address already in use\)"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["", "192.0.2.1", "no-such-host.invalid", "a..b", "x" * 70])
def test_an_address_that_this_machine_does_not_have_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on"):
        bind(host, 0)
