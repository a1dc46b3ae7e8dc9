from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis

from metarm.errors import ConfigurationError
from metarm.runtime.embedded_redis import LONGEST_SOCKET_PATH, EmbeddedRedis, socket_path
from tests.processes import RedisProcess


def test_the_server_listens_on_a_socket_that_only_its_user_can_open(redis_process: RedisProcess) -> None:
    socket = Path(redis_process.url.removeprefix("unix://"))
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    with redis_process.client() as client:
        assert client.config_get("port") == {"port": "0"}


def test_the_server_persists_its_data_and_evicts_no_keys(redis_client: redis.Redis) -> None:
    kept = redis_client.config_get("append*", "maxmemory-policy")
    assert isinstance(kept, dict)
    assert kept["appendonly"] == "yes"
    assert kept["appendfsync"] == "everysec"
    assert kept["maxmemory-policy"] == "noeviction"


def test_the_data_directory_is_created(tmp_path: Path) -> None:
    EmbeddedRedis(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("length", [30, 150])
def test_the_server_starts_in_a_data_directory_with_a_long_path(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("d" * length)
    with RedisProcess(folder) as server, server.client() as client:
        assert len(server.url.removeprefix("unix://")) <= LONGEST_SOCKET_PATH
        assert EmbeddedRedis(folder).url == server.url  # on every start: no socket is left behind
        client.set("metarm:test", "1")
        assert (folder / "appendonlydir").is_dir()


@pytest.mark.parametrize("planted", ["a link", "a file", "open to others"])
def test_a_socket_directory_that_other_users_could_enter_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    temporary, theirs = tmp_path / "t", tmp_path / "theirs"
    temporary.mkdir()
    theirs.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    deep = tmp_path / ("d" * 120)  # too long for the path of a socket
    place = Path(EmbeddedRedis(deep).url.removeprefix("unix://")).parent
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    if planted == "open to others":
        place.chmod(0o755)
    else:
        place.rmdir()
        place.touch() if planted == "a file" else place.symlink_to(theirs)
    with pytest.raises(ConfigurationError, match="not a folder of this user alone"):
        EmbeddedRedis(deep)


def test_a_temporary_folder_with_a_long_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("t" * 90)))
    socket = socket_path(tmp_path / ("d" * 120))
    assert socket.parts[:2] == ("/", "tmp")
    assert len(bytes(socket)) <= LONGEST_SOCKET_PATH
