"""`metarm up`: Redis, service and trainer as child processes; one Ctrl-C or SIGTERM stops all three.

Every child has its own process group, so that Ctrl-C reaches this process alone. It then stops the children in
an order that loses nothing: the service, which flushes its samples, the trainer, Redis. All stay in one
session: Linux divides the cores between sessions regardless of niceness, and the trainer must yield to the
service. A child that dies after everything has been ready is restarted.

If the store holds a version, the trainer starts only once the service answers, so that the service has all
cores until then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version as package_version
from pathlib import Path
from types import FrameType

import httpx
import redis
from pydantic import AliasChoices, Field

import metarm
from metarm.errors import EXIT_CONFIGURATION, ConfigurationError
from metarm.runtime import logs, process_environment
from metarm.runtime.addresses import bind, url_of
from metarm.runtime.child import Child, GivenUpError, ending
from metarm.runtime.embedded_redis import EmbeddedRedis
from metarm.runtime.settings import Host, ProcessSettings
from metarm.store.origin import check_origin

POLL_S = 0.2
START_POLL_S = 0.05  # until ready: the user waits
REDIS_START_S = 60.0


class LaunchSettings(ProcessSettings):
    """Run Redis, the scoring service and the trainer together. The environment sets all other settings of
    `metarm serve` and `metarm trainer`."""

    host: Host = Field("127.0.0.1", description="Address the service listens on.")
    port: int = Field(8080, ge=1, le=65535, description="Port the service listens on.")
    model: str | None = Field(
        None, description="First version: checkpoint folder or hub id. Unset: the packaged MiniLM."
    )
    init_head: bool = Field(False, description="Give a bare backbone a new scalar head and fine-tune it.")
    preferences: Path | None = Field(
        None,
        validation_alias=AliasChoices("METARM_PREFERENCES", "PREFERENCES"),
        description="Labelled pairs in TRL's format: JSONL, JSON.gz, Parquet. Unset: those that the current "
        "version was made of; for the packaged model, the packaged demo pairs.",
    )

    def run(self) -> int:
        return up(self)

    def environment(self, redis_url: str) -> dict[str, str]:
        """The environment of the children."""
        ours = {
            "METARM_DATA_DIR": str(self.data_dir.absolute()),
            "METARM_REDIS_URL": redis_url,
            "METARM_HOST": self.host,
            "METARM_PORT": str(self.port),
            "METARM_MODEL": self.model,
            "METARM_INIT_HEAD": str(self.init_head).lower(),
            "METARM_PREFERENCES": str(self.preferences.absolute()) if self.preferences else None,
            "METARM_MAX_TOKENS": str(self.max_tokens) if self.max_tokens else None,
            "METARM_LOG_LEVEL": self.log_level,
            "METARM_LOG_FORMAT": self.log_format,
        }
        given = {name: value for name, value in ours.items() if value is not None}
        return {**os.environ, **process_environment.REQUIRED, **given}


def up(settings: LaunchSettings) -> int:
    """Run all processes until a signal arrives; the exit status."""
    logs.configure("launcher", settings)
    stop = _Stop()
    try:
        with _claimed(settings.data_dir):
            return _run(settings, stop)
    except ConfigurationError as error:
        logs.announce(error.message)
        return EXIT_CONFIGURATION


def _run(settings: LaunchSettings, stop: _Stop) -> int:
    _check_port(settings)
    check_origin(settings.store, {"model": settings.model, "max_tokens": settings.max_tokens})
    children: list[Child] = []
    try:
        redis_url = settings.redis_url or _start_redis(settings, children, stop)
        environment = settings.environment(redis_url)
        trainer, service = (Child(n, [sys.executable, "-m", n], environment) for n in ("trainer", "service"))
        children += [trainer, service]
        service.start()
        if not settings.store.names():
            trainer.start()  # it creates the version that the service waits for
        logs.announce(_started_text(settings, redis_url))
        _supervise(settings, children, trainer, stop)
        return 0
    except GivenUpError as error:
        logs.announce(str(error))
        return error.status
    finally:
        logs.announce("stopping: service, trainer, Redis")
        for child in reversed(children):
            child.stop()
        logs.announce("stopped")


def _supervise(settings: LaunchSettings, children: list[Child], trainer: Child, stop: _Stop) -> None:
    """Restart children that die until `stop`; start the trainer once the service answers. Raises
    GivenUpError."""
    ready = False
    with httpx.Client(base_url=url_of(settings.host, settings.port), timeout=2.0) as http:
        while not stop.requested:
            for child in children:
                child.revive(starting=not ready)
            status = None if ready else _readiness(http)
            if status is not None and not trainer.started:
                trainer.start()
            if status == httpx.codes.OK:
                ready = True
                logs.announce(_ready_text(settings, keyed=http.get("/labels").status_code == 401))
            time.sleep(POLL_S if ready else START_POLL_S)


def _check_port(settings: LaunchSettings) -> None:
    """Raises ConfigurationError if another process listens on the port: its answers would look like ours."""
    for probe in bind(settings.host, settings.port):
        probe.close()


def _start_redis(settings: LaunchSettings, children: list[Child], stop: _Stop) -> str:
    """Start the embedded server as the first of `children` and wait until it answers; its URL."""
    embedded = EmbeddedRedis(settings.data_dir.absolute() / "redis")
    child = Child("redis", embedded.command(), os.environ)
    child.start()
    children.append(child)
    deadline = time.monotonic() + REDIS_START_S
    with contextlib.closing(redis.Redis.from_url(embedded.url)) as client:
        while not stop.requested:
            if child.exit_code() is not None:
                raise ConfigurationError(f"the embedded Redis did not start ({ending(child.exit_code())})")
            try:
                client.ping()
                break
            except redis.RedisError as error:
                if time.monotonic() > deadline:
                    raise ConfigurationError(f"the embedded Redis does not answer: {error}") from error
                time.sleep(0.05)
    return embedded.url


def _readiness(http: httpx.Client) -> int | None:
    """The status of /ready: 200 once the service can score, None until it listens."""
    try:
        return http.get("/ready").status_code
    except httpx.TransportError:
        return None


class _Stop:
    """Records that SIGINT or SIGTERM arrived."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True


@contextlib.contextmanager
def _claimed(data_dir: Path) -> Iterator[None]:
    """Lock the data directory: two launchers would share one Redis folder. Raises ConfigurationError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        opened = open(data_dir / ".lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ConfigurationError(
            f"{data_dir.absolute()} cannot be written ({error.strerror}): set METARM_DATA_DIR"
        ) from error
    with opened as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"another `metarm up` is running on {data_dir.absolute()}") from error
        yield


def _started_text(settings: LaunchSettings, redis_url: str) -> str:
    url = url_of(settings.host, settings.port)
    kept = "" if settings.redis_url else " (embedded Valkey, append-only file)"
    packages = ", ".join(f"{name} {package_version(name)}" for name in ("torch", "transformers", "fastapi"))
    return "\n".join(
        [
            f"MetaRM Server {metarm.__version__}, Python {sys.version.split()[0]}, {packages}",
            f"  service   {url}  (API description: {url}/docs)",
            "  trainer   in the background; it creates the first version if the store is empty",
            f"  redis     {logs.without_password(redis_url)}{kept}",
            f"  data      {settings.data_dir.absolute()}",
        ]
    )


def _ready_text(settings: LaunchSettings, *, keyed: bool) -> str:
    url = url_of(settings.host, settings.port)
    quoted = shlex.quote(f"{url}/score")  # [ is for the shell
    key = '-H "authorization: Bearer $KEY" ' if keyed else ""
    body = '{"groups":[{"prompt":"What is 17 + 25?","responses":["17 + 25 is 42.","It is 41!"]}]}'
    return "\n".join(
        [
            "ready. Try:",
            f"  curl -s {quoted} {key}-H 'content-type: application/json' -d '{body}'",
            "Ctrl-C stops everything.",
        ]
    )
