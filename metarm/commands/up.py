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
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib.metadata import version as package_version
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import orjson
import redis
from pydantic import Field, SecretStr
from pydantic_settings import CliSettingsSource

import metarm
from metarm.errors import EXIT_CONFIGURATION, ConfigurationError, InvalidVersionError
from metarm.runtime import closed_pipe, logs, process_environment, unknown_settings
from metarm.runtime.addresses import bind, url_of
from metarm.runtime.child import Child, GivenUpError, ending
from metarm.runtime.embedded_redis import EmbeddedRedis
from metarm.shared.connection import connect
from metarm.shared.presence import TrainerPresence, holder_name
from metarm.store.origin import check_origin
from service.settings import ServiceSettings
from trainer.settings import TrainerSettings

POLL_S = 0.2
START_POLL_S = 0.05  # until ready: the user waits
REDIS_START_S = 60.0
TRAINER_READY = "the trainer is ready"
GROUPS = ("options of both", "the service (metarm serve)", "the trainer (metarm trainer)")  # in the help


class LaunchSettings(ServiceSettings, TrainerSettings):
    """Run Redis, the scoring service and the trainer together. All settings are optional."""

    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")

    @classmethod
    def command_line(cls, command: str) -> CliSettingsSource[Any]:
        groups: dict[str, Any] = {}

        def add_argument(parser: ArgumentParser, *flags: str, **options: Any) -> None:
            for title in GROUPS if not groups else ():
                groups[title] = parser.add_argument_group(title)
            groups[_group_of(options.get("dest", ""))].add_argument(*flags, **options)

        source: CliSettingsSource[Any] = CliSettingsSource(
            cls, cli_prog_name=command, add_argument_method=add_argument
        )
        source.root_parser.usage = f"{command} [--SETTING VALUE ...]"
        return source

    def run(self) -> int:
        return up(self)

    def environment(self, redis_url: str) -> dict[str, str]:
        """The environment of the children: it sets what this process was given, wherever it was set."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        ours = {**given, "data_dir": self.data_dir, "redis_url": redis_url}
        texts = {f"METARM_{name.upper()}": _text(value) for name, value in ours.items() if value is not None}
        return {**os.environ, **process_environment.REQUIRED, **texts, unknown_settings.REPORTED: "true"}


def _group_of(name: str) -> str:
    """The title in the help under which the argument `name` is listed."""
    field = name.lower().removeprefix("metarm_")
    serves, trains = field in ServiceSettings.model_fields, field in TrainerSettings.model_fields
    return GROUPS[0] if serves == trains else GROUPS[1] if serves else GROUPS[2]


def _text(value: object) -> str:
    """A setting's value as a variable has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, list):
        return orjson.dumps([_text(item) for item in value]).decode()
    if isinstance(value, Path):
        return str(value.absolute())
    return str(value).lower() if isinstance(value, bool) else str(value)


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
    except BrokenPipeError:  # the reader of this output has left, as in `metarm up | head`
        return closed_pipe.STATUS


def _run(settings: LaunchSettings, stop: _Stop) -> int:
    _check_port(settings)
    with contextlib.suppress(InvalidVersionError, OSError):  # an unreadable store: the service reports it
        check_origin(settings.store, settings.model_dump())
    children: list[Child] = []
    try:
        redis_url = settings.redis_url or _start_redis(settings, children, stop)
        presence = TrainerPresence(connect(redis_url))
        environment = settings.environment(redis_url)
        trainer, service = (Child(n, [sys.executable, "-m", n], environment) for n in ("trainer", "service"))
        children += [trainer, service]
        service.start()
        if not settings.store.names():
            trainer.start()  # it creates the version that the service waits for
        logs.announce(_started_text(settings, redis_url))
        _supervise(settings, children, trainer, presence, stop)
        return 0
    except GivenUpError as error:
        logs.announce(f"{error}; its message above has the reason")
        return error.status
    except BrokenPipeError:
        closed_pipe.discard_output()  # the children are stopped all the same
        raise
    finally:
        logs.announce("stopping: service, trainer, Redis")
        for child in reversed(children):
            child.stop()
        logs.announce("stopped")


def _supervise(
    settings: LaunchSettings,
    children: list[Child],
    trainer: Child,
    presence: TrainerPresence,
    stop: _Stop,
) -> None:
    """Restart children that die until `stop`; start the trainer once the service answers; announce what is
    ready. Raises GivenUpError."""
    ready, said = False, ""  # said: about the trainer
    nobody = bool(settings.score_keys) and not settings.admin_keys
    with httpx.Client(base_url=url_of(settings.host, settings.port), timeout=2.0, trust_env=False) as http:
        while not stop.requested:
            for child in children:
                child.revive(starting=not ready)
            status = None if ready else _readiness(http)
            if status is not None and not trainer.started:
                trainer.start()
            if status == httpx.codes.OK:
                ready = True
                logs.announce(_ready_text(settings))
            if ready and not said.startswith(TRAINER_READY):
                found = _trainer_text(presence, trainer, nobody_retrains=nobody)
                if found not in (None, said):
                    said = str(found)
                    logs.announce(said)
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


def _ready_text(settings: LaunchSettings) -> str:
    url = url_of(settings.host, settings.port)
    quoted = shlex.quote(f"{url}/score")  # [ is for the shell
    names = [name for name in ("score_keys", "admin_keys") if getattr(settings, name)]
    key = '-H "authorization: Bearer $KEY" ' if names else ""
    where = f", once the variable KEY holds one of METARM_{names[0].upper()}" if names else ""
    body = '{"groups":[{"prompt":"What is 17 + 25?","responses":["17 + 25 is 42.","It is 41!"]}]}'
    return "\n".join(
        [
            f"ready to score. Try{where}:",
            f"  curl -s {quoted} {key}-H 'content-type: application/json' -d '{body}'",
            "The trainer follows. Ctrl-C stops everything.",
        ]
    )


def _trainer_text(presence: TrainerPresence, trainer: Child, *, nobody_retrains: bool) -> str | None:
    """What to say once a trainer is ready; None until then. It begins with TRAINER_READY if it is `trainer`."""
    try:
        status = presence.readable_status() or {}
    except redis.RedisError:  # the next turn asks again
        return None
    if status.get("state") != "ready":
        return None
    if trainer.pid is None or status.get("holder") != holder_name(trainer.pid):
        return f"another trainer ({status.get('holder')}) does the runs; the one started here waits for its end"
    if "preferences_error" in status:
        return f"{TRAINER_READY}, but every run will fail: {status['preferences_error']}"
    if nobody_retrains:
        return f"{TRAINER_READY}, but no key may start a run: METARM_ADMIN_KEYS names none"
    return f"{TRAINER_READY}: POST /retrain starts a run, once {status.get('min_groups')} groups are scored"
