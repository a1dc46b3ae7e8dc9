"""No wheel and no image holds experiments and benchmarks."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = {"metarm", "service", "trainer", "simulation"}


def test_a_wheel_holds_neither_experiments_nor_benchmarks() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert found.keys() == {"include"}
    inits = [
        init
        for top in (*SHIPPED, "experiments", "bench", "tests")
        for init in (ROOT / top).rglob("__init__.py")
    ]
    packages = {".".join(init.parent.relative_to(ROOT).parts) for init in inits}
    included = {name for name in packages if any(fnmatchcase(name, pattern) for pattern in found["include"])}
    assert included == {name for name in packages if name.split(".")[0] in SHIPPED}


def test_an_image_is_built_without_experiments_and_benchmarks() -> None:
    ignored, *allowed = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] in "*!"]
    assert ignored == "*"
    folders = {line[1:] for line in allowed if (ROOT / line[1:]).is_dir()}
    assert folders == SHIPPED
