"""The web server on its sockets."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from metarm.errors import ConfigurationError
from metarm.runtime.addresses import bind
from metarm.runtime.processes import free_port
from service.http.app import create_app
from service.http.web_server import web_server
from service.settings import ServiceSettings
from tests.metarm.runtime.test_addresses import needs_ipv6
from tests.processes import RedisProcess, service_here


def test_a_port_that_another_server_takes_during_the_start_is_refused(
    tmp_path: Path, redis_process: RedisProcess
) -> None:
    settings = ServiceSettings(data_dir=tmp_path, redis_url=redis_process.url, port=free_port(), tune=False)
    server = web_server(create_app(settings), settings)
    with contextlib.ExitStack() as opened:
        ours, other = (bind(settings.host, settings.port) for _ in range(2))
        for each in (*ours, *other):
            opened.enter_context(each)
        other[0].listen()
        before = threading.active_count()
        with pytest.raises(ConfigurationError, match=r"Address already in use.*METARM_PORT"):
            server.run(ours)
        assert not server.started
        assert threading.active_count() == before  # the parts that had started have ended


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_server_answers_on_ipv6(tmp_path: Path, redis_process: RedisProcess, host: str) -> None:
    with service_here(tmp_path, redis_process.url, METARM_HOST=host) as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert server.answers("/health")
        (listed,) = server.http.get("/versions").json()["servers"]
        assert listed["url"] == server.url
