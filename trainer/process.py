"""The trainer's process: its parts are constructed here, then run. Imports torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import redis
import torch

from metarm.errors import ConfigurationError
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
from metarm.store.retention import Retention
from metarm.store.versions import VersionStore
from trainer.bootstrap import ensure_first_version
from trainer.heartbeat import Heartbeat
from trainer.loop import Trainer
from trainer.preferences import PreferenceSet, load_or_error
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
        preferences = load_or_error(settings)
        ensure_first_version(store, settings, preferences, stop)
        heartbeat.announce(_status(settings, preferences))
        torch.set_num_threads(settings.train_threads or usable_cores())
        if settings.train_priority == "idle":
            run_on_idle_cores()
        _trainer(settings, client, store, preferences, heartbeat, clerk, loops).run(stop)
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
    preferences: PreferenceSet | ConfigurationError,
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


def _status(settings: TrainerSettings, preferences: PreferenceSet | ConfigurationError) -> Mapping[str, Any]:
    """What the trainer's place shows while it runs jobs."""
    needs = {"min_groups": settings.min_groups, "min_preferences": settings.min_preferences}
    if isinstance(preferences, ConfigurationError):
        return {"state": "ready", **needs, "preferences_error": preferences.message}
    return {"state": "ready", **needs, "preferences": len(preferences.train)}
