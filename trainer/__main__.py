"""`metarm trainer`, or `python -m trainer`: settings → first version → loop."""

from __future__ import annotations

import os
import signal
import sys
import threading

from metarm.runtime import logs, process_environment, tracing
from metarm.runtime.closed_pipe import ends_quietly
from trainer.settings import TrainerSettings

LOW_PRIORITY = 10  # niceness


@ends_quietly()
def main() -> None:
    process_environment.ensure_set()
    settings = TrainerSettings.from_command_line("metarm trainer", sys.argv[1:])
    logs.configure("trainer", settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with logs.refusals("metarm trainer"):
        run(settings, stop)


def run(settings: TrainerSettings, stop: threading.Event) -> None:
    """Run the trainer's process until `stop` is set."""
    os.nice(LOW_PRIORITY)
    with process_environment.gc_paused():
        from metarm.model.reward_model import quiet_transformers
        from trainer import process  # not before the environment is set: it imports torch

    quiet_transformers()
    tracing.begin("metarm-trainer")
    try:
        process.run(settings, stop)
    finally:
        tracing.end()


if __name__ == "__main__":
    main()
