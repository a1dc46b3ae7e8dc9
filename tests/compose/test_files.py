"""Checks of the container files without an engine: every name in them exists."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from metarm.runtime.settings import ProcessSettings
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from tests.compose.dashboard import MONITORING, dashboard, expressions, named_metrics, panels, rules
from tests.compose.engine import ROOT
from trainer.settings import TrainerSettings

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SETTINGS: dict[str, type[ProcessSettings]] = {"service": ServiceSettings, "trainer": TrainerSettings}
FIXED = {"data_dir", "redis_url", "host", "port", "published_on"}  # set by the image, or by the file itself


def passed_on(service: str) -> set[str]:
    """The variables that a container gets from `.env` or the shell."""
    environment = COMPOSE["services"][service]["environment"].items()
    return {name for name, value in environment if value is None or value.startswith(f"${{{name}:-")}


def exported_names() -> set[str]:
    """The series of the service's metrics and of the recording rules."""
    ours: set[str] = {rule["record"] for rule in rules("recording.yml")}
    for metric in Metrics().registry.declared:
        suffixes = ["_bucket", "_sum", "_count"] if metric.kind == "histogram" else [""]
        ours |= {metric.name + suffix for suffix in suffixes}
    return ours


@pytest.mark.parametrize("service", ["service", "trainer"])
def test_every_setting_reaches_its_container(service: str) -> None:
    settings = {f"METARM_{name.upper()}" for name in SETTINGS[service].model_fields.keys() - FIXED}
    ours = {name for name in passed_on(service) if name.startswith("METARM_")}
    assert ours == settings


def test_each_setting_is_listed_once() -> None:
    lines = (ROOT / "docker-compose.yml").read_text().splitlines()
    listed = [match[1] for line in lines if (match := re.match(r"\s+(?:- )?([A-Z][A-Z0-9_]+)\b\s*[:=]", line))]
    assert len(listed) > 80
    assert [name for name in set(listed) if listed.count(name) > 1] == []


def test_only_the_service_gets_the_keys() -> None:
    secrets = {"METARM_SCORE_KEYS", "METARM_ADMIN_KEYS"}
    assert secrets <= passed_on("service")
    assert secrets & COMPOSE["services"]["trainer"]["environment"].keys() == set()


def test_the_example_env_file_names_exactly_the_variables_that_are_read() -> None:
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "docker-compose.gpu.yml").read_text()
    read = set(re.findall(r"\$\{(\w+)[:-]", text)) | passed_on("service") | passed_on("trainer")
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = {match[1] for line in lines if (match := re.match(r"#?([A-Z][A-Z0-9_]*)=", line))}
    assert named - read - {"COMPOSE_PROFILES", "COMPOSE_FILE"} == set()
    outside = set(re.findall(r"\$\{(\w+)[:-]", text))
    assert outside - named == set(), ".env.example must explain the variables that docker-compose.yml reads"
    assert [line for line in lines if line and not line.startswith("#")] == [], "all lines are comments"


def listed(target: str, *extras: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "docker/dependencies.py", target, *extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_only_the_image_that_uses_an_extra_gets_it() -> None:
    plain = {target: set(listed(target).stdout.split("\n")) for target in ("service", "trainer")}
    asked = {target: set(listed(target, "otel", "wandb").stdout.split("\n")) for target in plain}
    added = {target: {line.split(">=")[0] for line in asked[target] - plain[target]} for target in plain}
    assert added == {
        "service": {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"},
        "trainer": {"wandb"},
    }
    assert plain["service"] & plain["trainer"] == {""}, (
        "the trainer's list has only what the list of all images lacks"
    )


def test_an_extra_that_no_image_has_fails_the_build() -> None:
    refused = listed("service", "demo", "otel")
    assert refused.returncode != 0
    assert "['demo']" in refused.stderr


def test_the_versions_are_read_only_for_the_service_and_preferences_for_the_trainer() -> None:
    assert "versions:/data/versions:ro" in COMPOSE["services"]["service"]["volumes"]
    mounts = COMPOSE["services"]["trainer"]["volumes"]
    assert "versions:/data/versions" in mounts
    assert [mount for mount in mounts if "/preferences" in mount and mount.endswith(":/preferences:ro")]


def test_ports_are_published_on_the_loopback_by_default() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert [p for p in ports if not re.match(r"(127\.0\.0\.1|\$\{METARM_HOST:-127\.0\.0\.1\}):", p)] == []


def test_scoring_has_priority_over_training() -> None:
    shares = {name: COMPOSE["services"][name]["cpu_shares"] for name in ("service", "trainer")}
    assert shares["service"] >= 100 * shares["trainer"]


def test_every_container_restarts_and_has_bounded_memory_and_logs() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


@pytest.mark.parametrize("file", ["recording.yml", "alerts.yml"])
def test_rules_read_series_that_exist(file: str) -> None:
    exported = exported_names()
    missing = {name for rule in rules(file) for name in named_metrics(rule["expr"]) - exported}
    assert missing == set()


def test_the_dashboard_reads_series_that_exist() -> None:
    missing = {name for expression in expressions() for name in named_metrics(expression)} - exported_names()
    assert missing == set()


def test_every_recorded_series_is_used() -> None:
    asked = [*expressions(), *(rule["expr"] for rule in rules("alerts.yml"))]
    used = {name for expression in asked for name in named_metrics(expression)}
    assert {rule["record"] for rule in rules("recording.yml")} - used == set()


def test_every_alert_is_documented_and_has_a_severity_and_a_summary() -> None:
    page = (ROOT / "docs" / "containers.md").read_text()
    for rule in rules("alerts.yml"):
        assert f"`{rule['alert']}`" in page
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]


def test_grafana_can_draw_the_dashboard() -> None:
    content = dashboard()
    assert content["uid"] == "metarm"
    assert content["id"] is None, "a provisioned dashboard gets its id from Grafana"
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uid = source["datasources"][0]["uid"]
    ids = [panel["id"] for panel in content["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": uid}, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]
        assert panel["description"], panel["title"]


def test_no_panels_overlap_or_leave_the_grid() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    overlapping = [(a, b) for a, b in itertools.combinations(places, 2) if _overlap(a, b)]
    assert overlapping == []


def test_grafana_reads_dashboards_from_the_mounted_folder() -> None:
    provider = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/metarm.yml").read_text())
    path = provider["providers"][0]["options"]["path"]
    grafana = COMPOSE["services"]["grafana"]
    assert f"./docker/grafana/dashboards:{path}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/metarm.json"


def _overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
    apart = (
        a["x"] + a["w"] <= b["x"]
        or b["x"] + b["w"] <= a["x"]
        or a["y"] + a["h"] <= b["y"]
        or b["y"] + b["h"] <= a["y"]
    )
    return not apart
