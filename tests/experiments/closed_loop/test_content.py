from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from experiments.closed_loop.content import sources

ROOT = Path(__file__).parents[3]

# every module that a run loads, in process and over HTTP
LOADED = """\
import sys
from experiments.closed_loop import first_model, in_process, play, served
ours = ("metarm", "trainer", "simulation", "experiments")
modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] in ours]
print(*(m.__file__ for m in modules), sep="\\n")
"""
NAMES_ONLY = {"content.py", "__init__.py"}  # of experiments/: no figure depends on them


def test_the_name_of_a_kept_result_depends_on_all_code_that_made_it() -> None:
    command = [sys.executable, "-c", LOADED]
    # from the checkout: experiments/ is not installed
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(line) for line in ended.stdout.splitlines()}
    assert any(path.name == "reward_model.py" for path in loaded)
    missing = {path for path in loaded - set(sources()) if path.name not in NAMES_ONLY}
    assert missing == set()
