"""The expressions of the monitoring files, and the metrics that they read."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.compose.engine import ROOT

MONITORING = ROOT / "docker"
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h"}


def dashboard() -> dict[str, Any]:
    text = (MONITORING / "grafana" / "dashboards" / "metarm.json").read_text()
    content: dict[str, Any] = json.loads(text)
    return content


def panels() -> list[dict[str, Any]]:
    """All panels except row titles."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """The expressions of all panels, as Prometheus gets them."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def rules(file: str) -> list[dict[str, Any]]:
    content = yaml.safe_load((MONITORING / "prometheus" / file).read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


def named_metrics(expression: str) -> set[str]:
    """This project's series that an expression reads: rm_… of the service, rm:… of the recording rules."""
    return set(re.findall(r"\brm[_:][a-z0-9_:]*", re.sub(r'"[^"]*"', '""', expression)))
