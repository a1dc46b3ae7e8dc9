"""The profile `monitoring`: Prometheus finds the services, loads the rules, and answers the dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.compose.dashboard import expressions
from tests.compose.engine import ROOT, Engine
from tests.compose.stack import LOCAL_IMAGES, Stack
from tests.demo_groups import demo_groups

pytestmark = pytest.mark.timeout(2400)


class Prometheus:
    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=10.0)

    def get(self, path: str, **parameters: str) -> Any:
        answer = self.http.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, expression: str) -> float | None:
        """The value of the only series; None without a series."""
        found = self.get("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None


@pytest.fixture(scope="module")
def prometheus(thorough: None, running: Stack) -> Iterator[Prometheus]:
    running.compose("--profile", "monitoring", "up", "--detach", "--no-deps", "prometheus")
    client = Prometheus(f"http://127.0.0.1:{running.prometheus_port}")

    def answers() -> bool:
        try:
            return client.http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    running.wait_until(answers, "Prometheus is not ready")
    yield client
    client.http.close()
    running.compose("--profile", "monitoring", "rm", "--stop", "--force", "prometheus")


@pytest.mark.parametrize("check", [["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]])
def test_promtool_accepts_the_configuration_and_the_tests_of_the_alerts(
    engine: Engine, check: list[str]
) -> None:
    promtool(engine, ROOT / "docker" / "prometheus", *check)


def test_every_expression_of_the_dashboard_is_valid(engine: Engine, tmp_path: Path) -> None:
    rules = [f"      - record: panel:{i}\n        expr: {e!r}" for i, e in enumerate(expressions())]
    text = "\n".join(["groups:", "  - name: dashboard", "    rules:", *rules])
    (tmp_path / "rules.yml").write_text(text)
    tmp_path.chmod(0o755)
    promtool(engine, tmp_path, "check", "rules", "rules.yml")


def test_prometheus_scrapes_the_service_and_the_dashboard_has_data(
    running: Stack, prometheus: Prometheus
) -> None:
    running.wait_until(lambda: prometheus.value('up{job="metarm"}') == 1, "the service is not scraped")
    version = (running.ready() or {})["version"]

    def seen() -> bool:
        running.http.post("/score", json={"groups": demo_groups(4)})
        return (prometheus.value("sum(rm:tokens_scored:rate1m)") or 0) > 0

    running.wait_until(seen, "there is no recorded series")
    info = prometheus.get("query", query='rm_version_info{label=""}')["result"]
    assert [series["metric"]["version"] for series in info] == [version]
    assert prometheus.value("rm:versions_serving:count") == 1
    for expression in expressions():
        prometheus.get("query", query=expression)


def test_rules_are_loaded_and_a_healthy_system_raises_no_alert(running: Stack, prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        return bool(rules) and all(rule["health"] == "ok" for rule in rules)

    running.wait_until(evaluated, "a rule cannot be evaluated")
    assert [a for a in prometheus.get("alerts")["alerts"] if a["state"] == "firing"] == []


def test_grafana_provides_the_dashboard(running: Stack, prometheus: Prometheus) -> None:
    """Needs Grafana's image, which an engine without a registry does not have."""
    if running.engine.alone:
        pytest.skip("no Grafana: this engine reaches no image registry; test_files.py checks the dashboard")
    running.compose("--profile", "monitoring", "up", "--detach", "--no-deps", "grafana")
    url = f"http://127.0.0.1:{running.environment['GRAFANA_PORT']}"

    def shows() -> bool:
        try:
            return httpx.get(f"{url}/api/dashboards/uid/metarm").status_code == 200
        except httpx.TransportError:
            return False

    running.wait_until(shows, "Grafana does not show the dashboard")
    running.compose("--profile", "monitoring", "rm", "--stop", "--force", "grafana")


def promtool(engine: Engine, folder: Path, *arguments: str) -> None:
    image = LOCAL_IMAGES["PROMETHEUS_IMAGE"] if engine.alone else "prom/prometheus:v3.5.0"
    key = ROOT / "docker" / "prometheus" / "no-key"
    mounts = ("-v", f"{folder}:/checked:ro", "-v", f"{key}:/run/secrets/metrics_key:ro", "-w", "/checked")
    engine.docker("run", "--rm", *mounts, "--entrypoint", "promtool", image, *arguments)
