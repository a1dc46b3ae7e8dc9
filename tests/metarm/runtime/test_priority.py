"""The priority of threads, in a separate process, because a lowered priority cannot be raised again."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_training_thread_runs_at_the_lowest_priority() -> None:
    program = "import os, metarm.runtime.priority as m; m.run_on_idle_cores(); print(os.sched_getscheduler(0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == os.SCHED_IDLE
