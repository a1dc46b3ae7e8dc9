"""What the routes are handed: the wired parts of one running server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from metarm.encoding import Encoded
from metarm.fleet import Fleet
from metarm.jobs import JobBoard
from metarm.sample_log import SampleLog
from metarm.versions import VersionStore
from service.activation import Activator
from service.batcher import Batcher
from service.condition import Condition
from service.group_scoring import GroupScoring
from service.labels import LabelWatch
from service.leases import Leases
from service.live_model import LiveModel, LoadedVersion
from service.loader import VersionLoader
from service.membership import Membership
from service.metrics import Metrics
from service.oversight import Oversight
from service.page_files import PageFiles
from service.pulse import Pulse
from service.refusals import Refusals
from service.retraining import Retraining
from service.sample_writer import SampleWriter
from service.settings import ServiceSettings
from service.store_writes import StoreWrites
from service.swapper import Swapper
from service.traffic import Traffic


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
    page: PageFiles


async def _parts(request: Request) -> Parts:  # on the event loop: a thread a request would cost more
    return cast("Parts", request.app.state.parts)


Wired = Annotated[Parts, Depends(_parts)]
