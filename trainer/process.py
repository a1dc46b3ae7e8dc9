"""The trainer's process: its parts are constructed here, then run. Imports torch."""

from __future__ import annotations

import threading
from functools import partial

import redis
import torch

from metarm.runtime.cores import usable_cores
from metarm.runtime.loops import Loops
from metarm.runtime.priority import run_on_idle_cores
from metarm.shared.connection import connect
from metarm.shared.coordinator import COMMAND_TIMEOUT_S, Coordinator
from metarm.shared.jobs import JobBoard
from metarm.shared.leases import leased_versions
from metarm.shared.presence import TrainerPresence
from metarm.shared.sample_log import SampleLog
from metarm.shared.store_commands import StoreCommands
from metarm.store.origin import check_origin
from metarm.store.retention import Retention
from metarm.store.versions import VersionStore
from trainer.bootstrap import ensure_first_version
from trainer.heartbeat import Heartbeat
from trainer.loop import Trainer
from trainer.preferences import Preferences, or_error
from trainer.settings import TrainerSettings
from trainer.store_clerk import StoreClerk
from trainer.tracking import Trackers


def run(settings: TrainerSettings, stop: threading.Event) -> None:
    """Take the trainer's place, publish a first version if there is none, then run jobs until `stop` is set."""
    client, store, loops = connect(settings.required_redis_url), settings.store, Loops()
    heartbeat = Heartbeat(TrainerPresence(client), loops)
    if not heartbeat.take_place({"state": "starting"}, stop):
        return
    clerk = _clerk(settings, client, store, heartbeat, loops)
    try:
        store.prepare()
        clerk.start()
        check_origin(store, settings.model_dump())  # what the first version fixed
        preferences = Preferences(settings)
        if not store.names():
            ensure_first_version(store, settings, or_error(preferences.of_first), stop)
        torch.set_num_threads(settings.train_threads or usable_cores())
        if settings.train_priority == "idle":
            run_on_idle_cores()
        trainer = _trainer(settings, client, store, preferences, heartbeat, clerk, loops)
        trainer.announce()
        trainer.run(stop)
    finally:
        clerk.close()
        heartbeat.close()


def _clerk(
    settings: TrainerSettings, client: redis.Redis, store: VersionStore, heartbeat: Heartbeat, loops: Loops
) -> StoreClerk:
    quick = connect(settings.required_redis_url, COMMAND_TIMEOUT_S)
    name, prepare_s = f"trainer {heartbeat.holder}", settings.cut_over_prepare_s
    coordinator = Coordinator(quick, store, name=name, prepare_s=prepare_s)
    return StoreClerk(StoreCommands(client), coordinator, store, heartbeat, loops.add("store-clerk"))


def _trainer(
    settings: TrainerSettings,
    client: redis.Redis,
    store: VersionStore,
    preferences: Preferences,
    heartbeat: Heartbeat,
    clerk: StoreClerk,
    loops: Loops,
) -> Trainer:
    jobs = JobBoard(client)
    leased = partial(leased_versions, client)
    return Trainer(
        settings,
        store,
        jobs,
        SampleLog(client),
        preferences,
        heartbeat,
        Retention(store, leased, settings.keep_versions, settings.retention_grace_s),
        clerk.promote,
        Trackers(settings.report_to, settings.data_dir, jobs.tracker_failed),
        loops.add("job-loop"),
    )
