"""`metarm up` as a user observes it: JSON log lines, and a job's spans, metrics and learning curve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.demo_groups import demo_groups
from tests.otlp import Collector
from tests.processes import HttpProcess, system
from tests.tiny import Kind

STEPS = ("read", "train", "save", "gate", "publish", "promote")


def test_a_retrain_is_visible_in_the_log_the_traces_the_metrics_and_tensorboard(
    checkpoint: Callable[[Kind], Path], tmp_path: Path
) -> None:
    pairs = [
        {"prompt": group["prompt"][:60], "chosen": "It is forty two.", "rejected": "Compare the two trains."}
        for group in demo_groups(120)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    settings = {
        "METARM_MODEL": str(checkpoint("bert")),
        "PREFERENCES": str(tmp_path / "pairs.jsonl"),
        "METARM_LOG_FORMAT": "json",
        "METARM_REPORT_TO": "tensorboard",
        "METARM_MIN_GROUPS": "4",
        "METARM_STEPS": "3",
        "METARM_GATE_TOLERANCE": "1.0",
        "METARM_TUNE": "false",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with Collector() as collector:
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        with system(tmp_path / "data", **settings) as process:
            process.wait_ready(120)
            groups = [{"prompt": g["prompt"][:60], "responses": g["responses"]} for g in demo_groups(6)]
            assert process.http.post("/score", json={"groups": groups}).status_code == 200
            process.wait_until(lambda: process.http.post("/retrain").status_code == 202)
            process.wait_until(lambda: process.http.get("/retrain").json()[0]["finished"] is not None)
            job = process.http.get("/retrain").json()[0]
            assert job["status"] == "published", job
            process.wait_until(lambda: 'rm_version_info{label="",version="v000002"} 1.0' in _metrics(process))
            assert 'rm_retrain_last_status{status="published"} 1.0' in _metrics(process)
            assert "rm_trainer_up 1.0" in _metrics(process)
        (retrain,) = collector.named("retrain")
    assert retrain.service == "metarm-trainer"
    assert retrain.attributes == {"job": job["job"]}
    parts = collector.trace(retrain.trace)
    assert set(parts) == {"retrain", *STEPS}
    assert all(parts[name].parent == retrain.id for name in STEPS)
    starts = [parts[name].start for name in STEPS]
    assert starts == sorted(starts)

    lines = _json_lines(process)
    assert {line["process"] for line in lines} == {"launcher", "service", "trainer"}
    of_job = [line for line in lines if line.get("job") == job["job"]]
    assert {line["process"] for line in of_job} == {"service", "trainer"}
    (published,) = [line for line in of_job if line.get("version") == "v000002"]
    assert published["trace_id"] == retrain.trace

    events = EventAccumulator(str(tmp_path / "data" / "tensorboard" / job["job"])).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]


def _metrics(process: HttpProcess) -> str:
    return process.http.get("/metrics").text


def _json_lines(process: HttpProcess) -> list[dict[str, Any]]:
    """All log lines except those of the embedded Redis, which does not log JSON."""
    lines = [line for line in process.output.splitlines() if line and not line[0].isdigit()]
    return [json.loads(line) for line in lines]
