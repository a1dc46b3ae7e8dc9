"""Log lines on stderr, readable or as JSON, with the fields bound to their context.

| field               | holds                                                                         |
| ------------------- | ----------------------------------------------------------------------------- |
| timestamp, level    | UTC in ISO 8601; debug, info, warning, error or critical                      |
| process, logger     | launcher, service, trainer or train; the module that logs                     |
| message, exception  | a sentence; a traceback                                                       |
| request_id          | the HTTP request that the line is about                                       |
| job, version        | the retrain job, the reward model's version                                   |
| trace_id, span_id   | where traces are exported                                                     |

All modules log through the standard library; structlog renders the lines. Secrets are masked in the finished
line, so that messages of libraries and tracebacks are covered too.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast
from urllib.parse import unquote

import orjson
import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from metarm.errors import EXIT_CONFIGURATION, ConfigurationError, MetaRMError
from metarm.runtime import tracing
from metarm.runtime.rate_limit import RateLimit
from metarm.runtime.settings import ProcessSettings
from metarm.runtime.unknown_settings import unknown_settings

MASK = "***"
LIBRARY_REPEAT_S = 60.0
SHORTEST_SECRET = 4  # masking a shorter one would make lines unreadable
SECRET_VARIABLES = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN")
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
CONSOLE_FIELDS = frozenset({"timestamp", "level", "logger", "process", "message", "exception"})

log = logging.getLogger(__name__)


class _Json(structlog.stdlib.ProcessorFormatter):
    """Marks a handler that writes JSON."""


def configure(process: str, settings: ProcessSettings) -> None:
    """Set up logging for this process, including its libraries, according to `settings`. The first lines are
    about unknown settings."""
    as_json = settings.log_format == "json"
    finish: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(serializer=_dumps) if as_json else _readable,
        cast("Processor", _SecretMask([*settings.secrets, *_external_secrets()])),
    ]
    formatter = (_Json if as_json else structlog.stdlib.ProcessorFormatter)(
        processors=finish, foreign_pre_chain=_field_processors(process, as_json)
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    handler.addFilter(_LibraryLimit("opentelemetry"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs a line for every request
    logging.captureWarnings(True)
    sys.excepthook = _on_uncaught
    threading.excepthook = _on_uncaught_in_thread
    for sentence in unknown_settings():
        log.warning(sentence)


def about_request(request_id: str) -> None:
    """Bind a request's id to the lines of this context: the task that answers it, and the tasks it starts."""
    bind_contextvars(request_id=request_id)


@contextmanager
def about_job(job: str) -> Iterator[None]:
    """Bind a job's id to the lines of this thread inside the block."""
    with bound_contextvars(job=job):
        yield


def announce(text: str) -> None:
    """Print a message for the user on stdout; if the log is JSON, log it instead."""
    if writes_json():
        log.info(text)
    else:
        print(f"metarm: {text}", flush=True)


def refuse(command: str, message: str) -> None:
    """Print the reason for which `command` ends on stderr; if the log is JSON, log it instead."""
    if writes_json():
        log.critical(message)
    else:
        print(f"{command}: {message}", file=sys.stderr)


@contextmanager
def refusals(command: str) -> Iterator[None]:
    """End the process with the reason, and EXIT_CONFIGURATION or 1, for a MetaRMError that leaves the block."""
    try:
        yield
    except ConfigurationError as error:
        refuse(command, error.message)
        sys.exit(EXIT_CONFIGURATION)
    except MetaRMError as error:
        refuse(command, error.message)
        sys.exit(1)


def _field_processors(process: str, as_json: bool) -> list[Processor]:
    """The processors that collect the fields of a line."""

    def named(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.pop("color_message", None)  # uvicorn's copy of the message with escape codes
        event["process"] = process
        return event

    in_utc = structlog.processors.TimeStamper(fmt="iso", utc=True)
    in_local_time = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
    return [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        named,
        _trace_ids,
        in_utc if as_json else in_local_time,
    ]


def _trace_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event.update(tracing.ids())
    return event


def _dumps(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _readable(_: WrappedLogger, __: str, event: EventDict) -> str:
    fields = "".join(f" {name}={value}" for name, value in event.items() if name not in CONSOLE_FIELDS)
    line = f"{event['timestamp']} {event['process']} {event['level'].upper()} {event['message']}{fields}"
    return f"{line}\n{event['exception']}" if "exception" in event else line


class _LibraryLimit(logging.Filter):
    """Limits each repeated message of a library to one in LIBRARY_REPEAT_S."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self._prefix = f"{library}."
        self._limit = RateLimit(LIBRARY_REPEAT_S)

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._prefix):
            return True
        return self._limit.admit(f"{record.name} {record.msg}") is not None


def _external_secrets() -> list[str]:
    """Secrets of trackers and collectors, from their environment variables."""
    given = [os.environ.get(name, "") for name in SECRET_VARIABLES]
    headers = [pair.partition("=")[2].strip() for pair in os.environ.get(HEADERS, "").split(",")]
    return [*given, *headers, *map(unquote, headers)]


class _SecretMask:
    """Masks secrets in a finished line."""

    def __init__(self, secrets: Sequence[str]) -> None:
        long = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
        in_json = {json.dumps(secret)[1:-1] for secret in long}
        self._secrets = sorted(long | in_json, key=len, reverse=True)

    def __call__(self, _: WrappedLogger, __: str, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, MASK)
        return URL_PASSWORD.sub(rf"\1{MASK}@", line)


def without_password(url: str) -> str:
    """The URL with its password masked."""
    return URL_PASSWORD.sub(rf"\1{MASK}@", url)


def writes_json() -> bool:
    """Whether log lines are JSON objects: then nothing else may be written between them."""
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)


def _on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.critical("the process ends: uncaught error", exc_info=(kind, error, trace))


def _on_uncaught_in_thread(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_value is not None and caught.exc_type is not SystemExit:
        name = caught.thread.name if caught.thread else "?"
        trace = (caught.exc_type, caught.exc_value, caught.exc_traceback)
        log.critical("the thread %s ends: uncaught error", name, exc_info=trace)
