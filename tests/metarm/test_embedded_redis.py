from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis

from metarm.embedded_redis import LONGEST_SOCKET_PATH, EmbeddedRedis
from tests.processes import RedisProcess


def test_the_server_listens_on_a_socket_only_its_user_may_open(redis_process: RedisProcess) -> None:
    socket = Path(redis_process.url.removeprefix("unix://"))
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    with redis_process.client() as client:
        assert client.config_get("port") == {"port": "0"}


def test_the_server_keeps_what_it_is_given_and_evicts_nothing(redis_client: redis.Redis) -> None:
    kept = redis_client.config_get("append*", "maxmemory-policy")
    assert isinstance(kept, dict)
    assert kept["appendonly"] == "yes"
    assert kept["appendfsync"] == "everysec"
    assert kept["maxmemory-policy"] == "noeviction"


def test_the_folder_is_created(tmp_path: Path) -> None:
    EmbeddedRedis(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("length", [30, 150])
def test_a_deep_data_directory_does_not_stop_the_server(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("d" * length)
    with RedisProcess(folder) as server, server.client() as client:
        assert len(server.url.removeprefix("unix://")) <= LONGEST_SOCKET_PATH
        client.set("metarm:test", "1")
        assert (folder / "appendonlydir").is_dir()
