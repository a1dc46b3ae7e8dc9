"""OpenTelemetry spans, where an endpoint to send them to is set; else the SDK is not imported, and a span costs
a comparison.

All is set by OpenTelemetry's own variables
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables): OTEL_EXPORTER_OTLP_ENDPOINT
or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, their …_HEADERS, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_SDK_DISABLED. Spans leave by OTLP over HTTP (protobuf), from a thread of their
own; what does not fit its queue is dropped.

| span           | of                                                                            |
| -------------- | ----------------------------------------------------------------------------- |
| POST /score, … | a request, made by FastAPI; `traceparent` names its parent                     |
| tokenise       | a request's texts → token ids                                                 |
| queue          | until a forward thread takes the first of a request                           |
| forward        | from there until the last of it is scored                                     |
| log            | the write of a request's groups to the sample log, which nobody waits for     |
| load           | a version: verified, loaded, probed, warmed                                   |
| swap           | a version that becomes current on a server alone, `load` in it                |
| retrain        | a job; in it read, train, save, gate, publish, promote                        |
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
END_S = 5.0  # that the last spans may take to leave
Attribute = str | int | float | bool

_NO_SPAN: AbstractContextManager[None] = nullcontext()
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def begin(service_name: str) -> TracerProvider | None:
    """Export spans from now on, once a process, if an endpoint is set; under `service_name` unless
    OTEL_SERVICE_NAME names another. None, and a warning, where the extra `otel` is not installed."""
    global _provider, _tracer
    wanted = any(os.environ.get(name) for name in ENDPOINTS)
    if _provider or not wanted or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return _provider
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("an endpoint for traces is set, but %s: pip install 'metarm-server[otel]'", error)
        return None

    named = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or service_name}
    _provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("metarm")
    log.info("traces go to %s", next(os.environ[name] for name in ENDPOINTS if os.environ.get(name)))
    return _provider


def end() -> None:
    """Send what is left, END_S long at most."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        # an endpoint that does not answer holds its own time, which nobody has to wait for
        last = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(END_S)


def span(name: str, **attributes: Attribute) -> AbstractContextManager[object]:
    """Around the block, in this context's span. What it raises is recorded."""
    if _tracer is None:
        return _NO_SPAN
    return _tracer.start_as_current_span(name, attributes=attributes)


def record(
    name: str, began_ns: int, ended_ns: int, parent: Context | None = None, **attributes: Attribute
) -> None:
    """A span that is over, in this context's span or in `parent`'s; times are of the monotonic clock."""
    if _tracer is None:
        return
    epoch_ns = time.time_ns() - time.monotonic_ns()
    over = _tracer.start_span(name, parent, attributes=attributes, start_time=epoch_ns + began_ns)
    over.end(epoch_ns + ended_ns)


def here() -> Context | None:
    """This context, for `record` in another thread; None where nothing is recorded."""
    if _tracer is None:
        return None
    from opentelemetry import context

    return context.get_current()


def ids() -> dict[str, str]:
    """Of this context's span, in hexadecimal, for the log; empty without one."""
    if _tracer is None:
        return {}
    from opentelemetry import trace

    of_span = trace.get_current_span().get_span_context()
    if not of_span.is_valid:
        return {}
    return {"trace_id": f"{of_span.trace_id:032x}", "span_id": f"{of_span.span_id:016x}"}
