"""Tracing: OpenTelemetry spans of requests, swaps and jobs, exported if an endpoint is set.

Without an endpoint the SDK is not imported, and a span costs one comparison.

OpenTelemetry's own variables configure everything
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables): OTEL_EXPORTER_OTLP_ENDPOINT
or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, their …_HEADERS, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_SDK_DISABLED. A background thread sends the spans by OTLP over HTTP (protobuf)
and drops those that do not fit its queue.

| span           | covers                                                                        |
| -------------- | ----------------------------------------------------------------------------- |
| POST /score, … | a request, made by FastAPI; `traceparent` names its parent                     |
| tokenise       | the texts of a request → token ids                                            |
| queue          | from the request until a forward thread takes its first sequence              |
| forward        | from there until its last sequence is scored                                  |
| log            | the asynchronous write of a request's groups to the sample log                |
| load           | verify, load, probe and warm a version                                        |
| swap           | a version becomes current on a single server; contains `load`                 |
| retrain        | a job; contains read, train, save, gate, publish, promote                     |
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
END_S = 5.0  # longest wait for the last spans
Attribute = str | int | float | bool

_NO_SPAN: AbstractContextManager[None] = nullcontext()
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def begin(service_name: str) -> TracerProvider | None:
    """Start exporting spans if an endpoint is set, as OTEL_SERVICE_NAME, else `service_name`. A second call
    returns the same provider. None, with a warning, if the extra `otel` is not installed."""
    global _provider, _tracer
    endpoint_set = any(os.environ.get(name) for name in ENDPOINTS)
    if _provider or not endpoint_set or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
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
    """Send the remaining spans, for END_S at most, and stop."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        # shutdown waits longer than END_S for an endpoint that does not answer
        last = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(END_S)


def span(name: str, **attributes: Attribute) -> AbstractContextManager[object]:
    """A span around the block, as a child of this context's span. It records exceptions."""
    if _tracer is None:
        return _NO_SPAN
    return _tracer.start_as_current_span(name, attributes=attributes)


def record(
    name: str, began_ns: int, ended_ns: int, parent: Context | None = None, **attributes: Attribute
) -> None:
    """Record a finished span as a child of this context's or `parent`'s; times are in nanoseconds of the
    monotonic clock."""
    if _tracer is None:
        return
    epoch_ns = time.time_ns() - time.monotonic_ns()
    finished = _tracer.start_span(name, parent, attributes=attributes, start_time=epoch_ns + began_ns)
    finished.end(epoch_ns + ended_ns)


def current_context() -> Context | None:
    """This context, for `record` in another thread; None if spans are not exported."""
    if _tracer is None:
        return None
    from opentelemetry import context

    return context.get_current()


def ids() -> dict[str, str]:
    """The ids of this context's span in hexadecimal, for the log; empty without a span."""
    if _tracer is None:
        return {}
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
