"""Commands for the user to copy into a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def metarm_command(*arguments: str) -> str:
    """`metarm ARGUMENTS`, quoted, with the path of this environment's program if PATH does not lead to it."""
    ours = Path(sys.executable).parent / "metarm"
    if shutil.which("metarm") == str(ours):
        program = ["metarm"]
    else:
        program = [str(ours)] if ours.exists() else [sys.executable, "-m", "metarm"]
    return shlex.join([*program, *arguments])
