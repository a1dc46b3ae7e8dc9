"""Watches the store for a newly current version; has it loaded, checked and warmed off the hot path."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from metarm.cores import usable_cores
from metarm.errors import InvalidVersionError, MetaRMError
from metarm.model import RewardModel, all_finite, load_model
from metarm.versions import VersionStore
from service.background import stand_back
from service.live_model import LiveModel, LoadedVersion

log = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0
CUT_OVER = "cut-over"  # the source of what is kept in memory for one
WARM_PROMPT = "Which of the two trains is faster?"
WARM_RESPONSES = ("The first.", "The second one, by about ten kilometres an hour. " * 8)


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """A version that could not be loaded, why, and when (monotonic seconds) it was tried."""

    name: str
    reason: str
    tried: float


class VersionLoader:
    """Brings versions from disk in a thread of its own: verify digests, load, warm."""

    def __init__(
        self,
        store: VersionStore,
        max_tokens: int,
        *,
        share_prompts: bool,
        reduced: bool,
        prepare: Callable[[RewardModel], None],
    ) -> None:
        """`reduced`: score in bfloat16. `prepare` is called, in that thread, with every model before it
        may serve."""
        self._store = store
        self._max_tokens = max_tokens
        self._share_prompts = share_prompts
        self._reduced = reduced
        self._prepare = prepare
        self._first = True  # until one has been loaded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")

    async def load(self, name: str) -> LoadedVersion:
        """Raises UnknownVersionError or InvalidVersionError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._load, name)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self, name: str) -> LoadedVersion:
        # the first has the machine for itself; the others load beside a version that serves
        torch.set_num_threads(usable_cores() if self._first else 1)
        version = self._checked(name)
        if self._first:
            stand_back()
            self._first = False
        return version

    def _checked(self, name: str) -> LoadedVersion:
        try:
            manifest = self._store.verify(name)
            limit = manifest.get("encoding", {}).get("max_tokens", self._max_tokens)
            model = load_model(self._store.path(name), min(limit, self._max_tokens), self._share_prompts)
            if self._reduced:
                model.reduce_precision()
        except OSError as error:
            raise InvalidVersionError(f"{name} cannot be read: {error}") from error
        samples = model.encoder.encode([(WARM_PROMPT, WARM_RESPONSES)])[0]
        with torch.inference_mode():
            scores = model.scores(samples).tolist()
        if not all_finite(scores):
            raise InvalidVersionError(f"{name} answers scores that are not finite numbers")
        self._prepare(model)
        return LoadedVersion(name, model)


class Swapper:
    """Keeps the live model at the store's `current`, and takes part in cut-overs. A version that cannot be
    loaded is refused: the running one stays, `refused` says why, and it is tried again after a while."""

    def __init__(
        self,
        store: VersionStore,
        live: LiveModel,
        *,
        poll_ms: int,
        swapped: Callable[[str, bool], None],
    ) -> None:
        self._store = store
        self._live = live
        self._poll_s = poll_ms / 1000
        self._swapped = swapped
        self._serving: str | None = None
        self.refused: RefusedVersion | None = None

    async def run(self) -> None:
        """Follow the pointer until cancelled."""
        while True:
            await self.follow()
            await asyncio.sleep(self._poll_s)

    async def follow(self) -> None:
        """Look at the pointer once; swap if it names another version than the one served."""
        wanted: str | None = "current"  # what a refusal names until the pointer has been read
        try:
            wanted = self._store.current()
            if wanted is None or wanted == self._serving or self._tried_lately(wanted):
                return
            await self._live.load(wanted)
            if self._store.current() == wanted:  # else it moved meanwhile, and the next look follows it
                await self._take(wanted)
        except MetaRMError as error:
            self._refuse(wanted or "current", error)

    async def prepare(self, name: str) -> None:
        """Have a version in memory that a cut-over is about to take. What it raises is a refusal."""
        try:
            await self._live.hold(CUT_OVER, [name])
        except MetaRMError as error:
            self._refuse(name, error)
            raise

    async def end(self, taken: str | None) -> None:
        """A cut-over has ended: serve the version it took, one assignment away, or the same as before."""
        if taken is not None and taken != self._serving:
            await self._take(taken)
        await self._live.hold(CUT_OVER, [])

    async def _take(self, name: str) -> None:
        await self._live.make_current(name)
        log.info("serving %s (before: %s)", name, self._serving)
        self._serving, self.refused = name, None
        self._swapped(name, True)

    def _tried_lately(self, name: str) -> bool:
        refused = self.refused
        return refused is not None and refused.name == name and time.monotonic() - refused.tried < RETRY_AFTER_S

    def _refuse(self, name: str, error: MetaRMError) -> None:
        if self.refused is None or (self.refused.name, self.refused.reason) != (name, error.message):
            log.error("refused %s, still serving %s: %s", name, self._serving, error.message)
        self.refused = RefusedVersion(name, error.message, time.monotonic())
        self._swapped(name, False)
