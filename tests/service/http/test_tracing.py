"""Spans that a real service sends to a stub collector, and scoring when no collector answers."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.otlp import Collector
from tests.processes import RedisProcess, service
from tests.store import publish
from tests.tiny import Kind

Checkpoint = Callable[[Kind], Path]

pytestmark = pytest.mark.slow
GROUP = {"prompt": "What is seventeen plus twenty five?", "responses": ["Forty two.", "The trains."]}
BODY = {"groups": [GROUP]}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CLOCK_TOLERANCE_NS = 1_000_000  # drift between the Unix clock and the monotonic clock
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


def test_a_requests_spans_reach_the_collector_under_the_callers_trace(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with Collector() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "METARM_LOG_FORMAT": "json", **SOON}
        with service(tmp_path, redis_process.url, **settings) as process:
            process.wait_ready()
            began = time.time_ns()
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert process.http.post("/score", json=BODY, headers=headers).status_code == 200
            ended = time.time_ns()
            wanted = {"POST /score", "tokenise", "queue", "forward", "log"}
            process.wait_until(lambda: {span.name for span in collector.spans if span.trace == TRACE} >= wanted)
            assert process.http.post("/score", json={**BODY, "version": "v000099"}).status_code == 409
            process.wait_until(lambda: len(collector.named("POST /score")) == 2)
        assert collector.paths == {"/v1/traces"}
        of_request = collector.trace(TRACE)
        assert set(of_request) == wanted
        root = of_request.pop("POST /score")
        assert root.service == "metarm-service"
        assert root.parent == PARENT
        assert root.attributes["http.route"] == "/score"
        assert root.attributes["http.response.status_code"] == 200
        assert began <= root.start <= ended
        assert {span.parent for span in of_request.values()} == {root.id}
        tokenise, queue, forward = (of_request[name] for name in ("tokenise", "queue", "forward"))
        assert tokenise.attributes == {"version": "v000001", "groups": 1}
        assert root.start <= tokenise.start < tokenise.end <= queue.start + CLOCK_TOLERANCE_NS
        assert queue.start < queue.end <= forward.start + CLOCK_TOLERANCE_NS
        assert forward.start < forward.end <= root.end + CLOCK_TOLERANCE_NS
        assert of_request["log"].attributes == {"groups": 1}

        loads = {span.attributes["version"]: span for span in collector.named("load")}
        load = loads["v000001"]
        assert (load.trace, load.parent) in {(swap.trace, swap.id) for swap in collector.named("swap")}
        assert not any("ready" in span.name or "health" in span.name for span in collector.spans)
        refused = next(span for span in collector.named("POST /score") if span.trace != TRACE)
        assert refused.attributes["http.response.status_code"] == 409
        assert loads["v000099"].failed
        assert (loads["v000099"].trace, loads["v000099"].parent) == (refused.trace, refused.id)
        assert f'"trace_id":"{refused.trace}"' in process.output


def test_the_tracing_sdk_is_not_imported_without_an_endpoint(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with service(tmp_path, redis_process.url, PYTHONVERBOSE="1") as process:
        process.wait_ready()
        assert process.http.post("/score", json=BODY).status_code == 200
        imported = {line.split("'")[1] for line in process.output.splitlines() if line.startswith("import '")}
    assert "service.http.app" in imported
    # redis itself imports the SDK's metrics if they are installed
    assert not any(
        name.startswith(("opentelemetry.sdk.trace.", "opentelemetry.exporter.")) for name in imported
    )


@pytest.mark.parametrize("answers", ["refused", "silent"])
def test_an_unresponsive_trace_endpoint_does_not_affect_scoring_or_shutdown(
    answers: str, checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    publish(tmp_path, checkpoint("bert"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if answers == "silent":
            listener.listen(64)  # accepts connections and never answers
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # a queue so short that it overflows, which must not fill the log
        short = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8", **SOON}
        with service(tmp_path, redis_process.url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **short) as process:
            process.wait_ready()
            bodies = [{"groups": [{**GROUP, "prompt": f"{n}?"}]} for n in range(60)]
            answered = [process.http.post("/score", json=body).status_code for body in bodies]
            process.http.close()
        assert answered == [200] * len(bodies)
        assert process.wait(30) == -signal.SIGTERM
        lines = [line for line in process.output.splitlines() if "Queue full" in line or "export" in line]
        assert len(lines) < 10
