"""The documentation agrees with the code. `python -m tests.test_docs` writes the generated parts: the settings
page, the list of their names, the table of metrics and the tree of modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from metarm.commands.up import LaunchSettings
from metarm.errors import MetaRMError
from metarm.runtime import unknown_settings
from metarm.runtime.settings import ProcessSettings
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.telemetry.training_metrics import TrainingFigures
from trainer.settings import FirstModelSettings, TrainerSettings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COMMANDS: dict[str, type[ProcessSettings]] = {
    "metarm serve": ServiceSettings,
    "metarm trainer": TrainerSettings,
    "metarm train": FirstModelSettings,
}
INTRODUCTION = """# Settings

A setting comes from the command line (`--batch-tokens 512`), else the environment (`METARM_BATCH_TOKENS`),
else a `.env` file in the working directory, else its default. `REDIS_URL` and `PREFERENCES` are read without
the prefix as well. A list is written `one,two`, or as a JSON list. `metarm up` takes all settings of `metarm
serve` and `metarm trainer`, in all these places. Every program reports unknown `METARM_` names at its start.
"""
NAMES = ROOT / "metarm" / "data" / "setting_names.txt"
NO_SETTINGS = ("METARM_API_KEY", "METARM_SHIFT_DATA")  # of `metarm demo` and of experiments/shift
PRODUCT = ("metarm", "service", "trainer", "simulation")
READ = {".py", ".js", ".md", ".yml", ".yaml", ".sh", ".toml", ".cfg"}
TREE_BEGIN = "<!-- `python -m tests.test_docs` writes this tree from the modules' docstrings -->\n"
TREE_END = "<!-- end of the tree -->\n"
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


def setting_names() -> str:
    """Every METARM_ variable that something reads, one a line."""
    fields = {name for settings in COMMANDS.values() for name in settings.model_fields}
    return "\n".join([*sorted([*NO_SETTINGS, *(f"METARM_{name.upper()}" for name in fields)]), ""])


def metrics_table() -> str:
    rows = ["| metric | type | meaning |", "| --- | --- | --- |"]
    for metric in Metrics().registry.declared:
        labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
        rows.append(f"| `{metric.name}{labels}` | {metric.kind} | {metric.doc} |")
    return "\n".join([*rows, ""])


def _around(page: str, begin: str, end: str) -> tuple[str, str, str]:
    """Split the page into the parts before, between and after the two markers."""
    before, rest = page.split(begin)
    generated, after = rest.split(end)
    return before, generated, after


def test_every_setting_is_on_the_settings_page_with_its_default() -> None:
    assert (DOCS / "settings.md").read_text() == settings_page()


def test_the_list_of_known_names_holds_every_setting() -> None:
    assert NAMES.read_text() == setting_names()
    launcher = {f"METARM_{name.upper()}" for name in LaunchSettings.model_fields}
    assert launcher - set(NAMES.read_text().split()) == set()


def test_every_name_in_code_configuration_and_documentation_is_known() -> None:
    known = {*NAMES.read_text().split(), unknown_settings.REPORTED}
    folders = [ROOT / name for name in (*PRODUCT, "experiments", "bench", "docker", "docs")]
    found = {path for folder in folders for path in folder.rglob("*") if path.suffix in READ or not path.suffix}
    found |= {*ROOT.glob("*.md"), *ROOT.glob("*.yml"), ROOT / ".env.example", ROOT / "Makefile"}
    named = {
        name: path.name
        for path in found
        if path.is_file()
        for name in re.findall(r"\bMETARM_[A-Z_]*[A-Z]\b", path.read_text())
    }
    assert len(named) > 80
    assert {name: where for name, where in named.items() if name not in known} == {}


def test_every_error_code_is_in_the_api_page() -> None:
    page = (DOCS / "api.md").read_text()
    internal = {"configuration_error", "client_error", "cancelled", "training_failed"}
    codes = {kind.code for kind in _all_errors(MetaRMError)} - internal
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []


def test_every_metric_is_in_the_operations_page_with_its_type_labels_and_meaning() -> None:
    _, table, _ = _around((DOCS / "operations.md").read_text(), METRICS_BEGIN, METRICS_END)
    assert table == metrics_table()


def test_every_served_metric_is_declared_with_its_type_and_help() -> None:
    metrics = Metrics()
    metrics.training.show(TrainingFigures(True, True, 1, 2, 0.5, {}, "failed", 1.0))
    declared = {(metric.name, metric.kind, metric.doc) for metric in metrics.registry.declared}
    families = metrics.registry.prometheus.collect()
    served = {(_name(family), family.type, family.documentation) for family in families}
    assert {metric for metric in served if not metric[0].startswith("process_")} == declared


def test_metric_names_follow_the_prometheus_conventions() -> None:
    """https://prometheus.io/docs/practices/naming"""
    for metric in Metrics().registry.declared:
        assert metric.name.startswith("rm_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not metric.name.endswith(("_ms", "_milliseconds", "_percent", "_mb"))


def _name(family: Metric) -> str:
    """The name as served: the client library omits a counter's suffix."""
    return f"{family.name}_total" if family.type == "counter" else family.name


PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *DOCS.rglob("*.md")]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_pages_point_to_existing_files(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def tree() -> str:
    """The modules of the product, each with the first sentence of its docstring."""
    lines: list[str] = []
    for package in PRODUCT:
        lines += [f"{name:<30}{sentence}".rstrip() for name, sentence in _described(ROOT / package, 0)]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def _described(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    """Yield the line of a package, then its modules, then its subpackages, indented by two spaces."""
    indent = "  " * depth
    yield f"{indent}{folder.name}/", _first_sentence(folder / "__init__.py")
    for module in sorted(folder.glob("*.py")):
        if module.name != "__init__.py":
            yield f"{indent}  {module.name}", _first_sentence(module)
    for package in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _described(package, depth + 1)


def _first_sentence(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text())) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.])\s", paragraph)[0].removesuffix(".")


def test_every_module_has_a_docstring() -> None:
    rows = [row for package in PRODUCT for row in _described(ROOT / package, 0)]
    assert [name for name, sentence in rows if not sentence] == []


def test_the_architecture_page_shows_the_current_module_tree() -> None:
    _, shown, _ = _around((DOCS / "architecture.md").read_text(), TREE_BEGIN, TREE_END)
    assert shown == tree()


def _all_errors(kind: type[MetaRMError]) -> list[type[MetaRMError]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in _all_errors(sub))]


def _rewrite(page: Path, begin: str, end: str, generated: str) -> None:
    before, _, after = _around(page.read_text(), begin, end)
    page.write_text(f"{before}{begin}{generated}{end}{after}")


if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_page())
    NAMES.write_text(setting_names())
    _rewrite(DOCS / "operations.md", METRICS_BEGIN, METRICS_END, metrics_table())
    _rewrite(DOCS / "architecture.md", TREE_BEGIN, TREE_END, tree())
