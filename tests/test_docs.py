"""The documentation says what the code says. `python -m tests.test_docs` writes the settings page again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metarm.errors import MetaRMError
from metarm.launcher import LaunchSettings
from metarm.settings import ProcessSettings
from service.metrics import Metrics
from service.settings import ServiceSettings
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


def test_every_setting_is_on_the_settings_page_with_its_default() -> None:
    assert (DOCS / "settings.md").read_text() == settings_page()


def test_every_error_code_is_in_the_api_page() -> None:
    page = (DOCS / "api.md").read_text()
    internal = {"configuration_error", "client_error", "cancelled", "training_failed"}
    codes = {kind.code for kind in _all_errors(MetaRMError)} - internal
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []


def test_every_metric_is_in_the_operations_page() -> None:
    page = (DOCS / "operations.md").read_text()
    names = {family.name for family in Metrics().registry.collect()}
    assert [name for name in sorted(names) if name not in page] == []


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in DOCS.glob("*.md"))])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_tree_in_the_readme_names_files_that_exist() -> None:
    tree = (ROOT / "README.md").read_text().split("```text")[1].split("```")[0]
    folder = Path()
    missing = []
    for line in tree.splitlines():
        if not line.strip():
            continue
        name = line.split()[0]
        if name.endswith("/") and not line.startswith(" "):
            folder = Path(name)
        path = folder / name if line.startswith(" ") else Path(name)
        if not (ROOT / path).exists():
            missing.append(str(path))
    assert missing == []


def _all_errors(kind: type[MetaRMError]) -> list[type[MetaRMError]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in _all_errors(sub))]


if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_page())
