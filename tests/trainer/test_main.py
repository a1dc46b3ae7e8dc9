"""What only a process of its own can show of the trainer's start."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_run_takes_only_the_time_nobody_else_wants() -> None:
    program = "import os, trainer.__main__ as m; m.lower_thread_priority(); print(os.sched_getscheduler(0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == os.SCHED_IDLE
