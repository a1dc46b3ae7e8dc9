"""`metarm trainer`, or `python -m trainer`: settings → first version → loop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial

from metarm.errors import EXIT_CONFIGURATION, ConfigurationError, MetaRMError
from metarm.runtime import logs, process_environment, tracing
from trainer.settings import TrainerSettings

LOW_PRIORITY = 10  # niceness


def main() -> None:
    process_environment.ensure_set()
    settings = TrainerSettings.from_command_line("metarm trainer", sys.argv[1:])
    logs.configure("trainer", settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        run(settings, stop)
    except ConfigurationError as error:
        logs.refuse("metarm trainer", error.message)
        sys.exit(EXIT_CONFIGURATION)
    except MetaRMError as error:
        logs.refuse("metarm trainer", error.message)
        sys.exit(1)


def run(settings: TrainerSettings, stop: threading.Event) -> None:
    """Take the trainer's place, publish a first version if there is none, then run jobs until `stop` is set."""
    os.nice(LOW_PRIORITY)
    with process_environment.gc_paused():
        import torch  # only once the process environment is set

        from metarm.model.reward_model import quiet_transformers
        from metarm.runtime.cores import usable_cores
        from metarm.runtime.loops import Loops
        from metarm.shared.connection import connect
        from metarm.shared.coordinator import COMMAND_TIMEOUT_S, Coordinator
        from metarm.shared.jobs import JobBoard
        from metarm.shared.leases import leased_versions
        from metarm.shared.presence import TrainerPresence
        from metarm.shared.sample_log import SampleLog
        from metarm.shared.store_commands import StoreCommands
        from metarm.store.retention import Retention
        from trainer.bootstrap import ensure_first_version
        from trainer.heartbeat import Heartbeat
        from trainer.loop import Trainer
        from trainer.preferences import load_or_refuse
        from trainer.store_clerk import StoreClerk
        from trainer.tracking import Trackers

    quiet_transformers()
    tracing.begin("metarm-trainer")
    client = connect(settings.required_redis_url)
    jobs = JobBoard(client)
    loops = Loops()
    heartbeat = Heartbeat(TrainerPresence(client), loops.add("heartbeat"))
    needs = {"min_groups": settings.min_groups, "min_preferences": settings.min_preferences}
    if not heartbeat.take_place({"state": "starting"}, stop):
        return
    store = settings.store
    quick = connect(settings.required_redis_url, COMMAND_TIMEOUT_S)
    prepare_s = settings.cut_over_prepare_s
    coordinator = Coordinator(quick, store, name=f"trainer {heartbeat.holder}", prepare_s=prepare_s)
    trackers = Trackers(settings.report_to, settings.data_dir, jobs.tracker_failed)
    clerk = StoreClerk(StoreCommands(client), coordinator, store, heartbeat, loops.add("store-clerk"))
    try:
        store.prepare()
        clerk.start()
        preferences = load_or_refuse(settings)
        ensure_first_version(store, settings, preferences, stop)
        if isinstance(preferences, ConfigurationError):
            heartbeat.announce({"state": "ready", **needs, "preferences_error": preferences.message})
        else:
            heartbeat.announce({"state": "ready", **needs, "preferences": len(preferences.train)})
        torch.set_num_threads(settings.train_threads or usable_cores())
        if settings.train_priority == "idle":
            lower_thread_priority()
        retention = Retention(
            store, partial(leased_versions, client), settings.keep_versions, settings.retention_grace_s
        )
        log = SampleLog(client)
        promote = clerk.promote
        trainer = Trainer(settings, store, jobs, log, preferences, heartbeat, retention, promote, trackers)
        trainer.run(stop)
    finally:
        clerk.close()
        heartbeat.close()
        tracing.end()


def lower_thread_priority() -> None:
    """From now on this thread, and the threads that it starts, run only on idle cores: requests for scores have
    priority (docs/decisions/0004-the-trainer-stands-behind-the-service.md)."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    main()
