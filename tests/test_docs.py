"""The documentation says what the code says. `python -m tests.test_docs` writes the settings page and the table
of metrics again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from metarm.commands.up import LaunchSettings
from metarm.errors import MetaRMError
from metarm.runtime.settings import ProcessSettings
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.telemetry.training_metrics import TrainingFigures
from trainer.settings import FirstModelSettings, TrainerSettings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COMMANDS: dict[str, type[ProcessSettings]] = {
    "metarm up": LaunchSettings,
    "metarm serve": ServiceSettings,
    "metarm trainer": TrainerSettings,
    "metarm train": FirstModelSettings,
}
INTRODUCTION = """# Settings

A setting comes from the command line (`--batch-tokens 512`), else the environment (`METARM_BATCH_TOKENS`),
else a `.env` file in the working directory, else its default. `REDIS_URL` and `PREFERENCES` are read without
the prefix as well. `metarm up` hands the whole environment on, so it takes every setting below from there.
"""
METRICS_BEGIN = "<!-- `python -m tests.test_docs` writes this table -->\n"
METRICS_END = "<!-- end of the table -->\n"


def settings_page() -> str:
    parts = [INTRODUCTION]
    for command, settings in COMMANDS.items():
        rows = [_row(name, settings) for name in settings.model_fields]
        header = "| flag | environment | default | meaning |\n| --- | --- | --- | --- |"
        parts.append("\n".join([f"## `{command}`", "", header, *rows, ""]))
    return "\n".join(parts)


def _row(name: str, settings: type[ProcessSettings]) -> str:
    field = settings.model_fields[name]
    flag, variable = f"`--{name.replace('_', '-')}`", f"`METARM_{name.upper()}`"
    default = "unset" if field.default is None else f"`{str(field.default).lower()}`"
    return f"| {flag} | {variable} | {default} | {field.description} |"


def metrics_table() -> str:
    rows = ["| metric | type | meaning |", "| --- | --- | --- |"]
    for metric in Metrics().registry.declared:
        labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
        rows.append(f"| `{metric.name}{labels}` | {metric.kind} | {metric.doc} |")
    return "\n".join([*rows, ""])


def _around_the_metrics(page: str) -> tuple[str, str, str]:
    before, rest = page.split(METRICS_BEGIN)
    table, after = rest.split(METRICS_END)
    return before, table, after


def test_every_setting_is_on_the_settings_page_with_its_default() -> None:
    assert (DOCS / "settings.md").read_text() == settings_page()


def test_every_error_code_is_in_the_api_page() -> None:
    page = (DOCS / "api.md").read_text()
    internal = {"configuration_error", "client_error", "cancelled", "training_failed"}
    codes = {kind.code for kind in _all_errors(MetaRMError)} - internal
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []


def test_every_metric_is_in_the_operations_page_with_its_type_labels_and_meaning() -> None:
    _, table, _ = _around_the_metrics((DOCS / "operations.md").read_text())
    assert table == metrics_table()


def test_every_metric_that_is_served_was_declared_with_that_type_and_help() -> None:
    metrics = Metrics()
    metrics.training.show(TrainingFigures(True, True, 1, 2, 0.5, {}, "failed", 1.0))
    declared = {(metric.name, metric.kind, metric.doc) for metric in metrics.registry.declared}
    families = metrics.registry.prometheus.collect()
    served = {(_name(family), family.type, family.documentation) for family in families}
    assert {metric for metric in served if not metric[0].startswith("process_")} == declared


def test_names_of_metrics_end_in_their_unit() -> None:
    """https://prometheus.io/docs/practices/naming"""
    for metric in Metrics().registry.declared:
        assert metric.name.startswith("rm_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not metric.name.endswith(("_ms", "_milliseconds", "_percent", "_mb"))


def _name(family: Metric) -> str:
    """As it is asked for: the client library leaves a counter's suffix out."""
    return f"{family.name}_total" if family.type == "counter" else family.name


PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *DOCS.rglob("*.md")]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def tree() -> set[Path]:
    """What README's tree names; a folder's entries are indented by two."""
    text = (ROOT / "README.md").read_text().split("```text")[1].split("```")[0]
    named: set[Path] = set()
    folders: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        named.add(Path(*folders[:depth], name))
        folders[depth:] = [name]
    return named


def test_the_tree_in_the_readme_names_files_that_exist() -> None:
    assert [str(path) for path in tree() if not (ROOT / path).exists()] == []


def test_the_tree_in_the_readme_leaves_out_no_file_beside_those_it_names() -> None:
    named = tree()
    shown = {path.parent for path in named if path.suffix == ".py"} - {Path("bench")}  # commands
    modules = {path.relative_to(ROOT) for folder in shown for path in (ROOT / folder).glob("*.py")}
    assert {str(path) for path in modules - named if path.name != "__init__.py"} == set()


def _all_errors(kind: type[MetaRMError]) -> list[type[MetaRMError]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in _all_errors(sub))]


if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_page())
    operations = DOCS / "operations.md"
    before, _, after = _around_the_metrics(operations.read_text())
    operations.write_text(f"{before}{METRICS_BEGIN}{metrics_table()}{METRICS_END}{after}")
