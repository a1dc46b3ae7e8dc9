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
from service.condition import Condition
from service.metrics import Metrics
from service.oversight.traffic import Traffic
from service.oversight.wiring import Oversight
from service.page_files import PageFiles
from service.pulse import Pulse
from service.retraining import Retraining
from service.sample_writer import SampleWriter
from service.scoring.batcher import Batcher
from service.scoring.group_scoring import GroupScoring
from service.scoring.loader import VersionLoader
from service.serving.activation import Activator
from service.serving.labels import LabelWatch
from service.serving.leases import Leases
from service.serving.live_model import LiveModel, LoadedVersion
from service.serving.membership import Membership
from service.serving.refusals import Refusals
from service.serving.store_writes import StoreWrites
from service.serving.swapper import Swapper
from service.settings import ServiceSettings


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
