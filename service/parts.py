"""What the routes are handed: the wired parts of one running server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from metarm.model.encoding import Encoded
from metarm.shared.fleet import Fleet
from metarm.shared.jobs import JobBoard
from metarm.shared.sample_log import SampleLog
from metarm.store.versions import VersionStore
from service.oversight.health import Condition
from service.oversight.traffic import Traffic
from service.oversight.wiring import Oversight
from service.samples.retraining import Retraining
from service.samples.writer import SampleWriter
from service.scoring.batcher import Batcher
from service.scoring.group_scoring import GroupScoring
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.telemetry.pulse import Pulse
from service.versions.activation import Activator
from service.versions.labels import LabelWatch
from service.versions.leases import Leases
from service.versions.live_model import LiveModel, LoadedVersion
from service.versions.loader import VersionLoader
from service.versions.membership import Membership
from service.versions.refusals import Refusals
from service.versions.store_writes import StoreWrites
from service.versions.swapper import Swapper


@dataclass(frozen=True, slots=True)
class Parts:
    settings: ServiceSettings
    store: VersionStore
    loader: VersionLoader
    live: LiveModel
    batcher: Batcher[LoadedVersion, Encoded]
    group_scoring: GroupScoring
    swapper: Swapper
    refusals: Refusals
    labels: LabelWatch
    leases: Leases
    fleet: Fleet
    membership: Membership
    writes: StoreWrites
    activator: Activator
    tokenizer_threads: ThreadPoolExecutor
    writer: SampleWriter
    sample_log: SampleLog
    jobs: JobBoard
    metrics: Metrics
    retraining: Retraining
    traffic: Traffic
    oversight: Oversight
    pulse: Pulse
    condition: Condition


async def _parts(request: Request) -> Parts:  # on the event loop: a thread a request would cost more
    return cast("Parts", request.app.state.parts)


Wired = Annotated[Parts, Depends(_parts)]
