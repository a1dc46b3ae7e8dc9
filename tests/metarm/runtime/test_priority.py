"""The priority of threads, in a process of its own: it cannot be raised again."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_run_takes_only_the_time_nobody_else_wants() -> None:
    program = "import os, metarm.runtime.priority as m; m.run_on_idle_cores(); print(os.sched_getscheduler(0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == os.SCHED_IDLE
