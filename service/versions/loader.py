"""Loads a version from disk, off the hot path: verify, load, compare on the probe, prepare to serve."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from metarm.errors import InvalidVersionError, UnknownVersionError
from metarm.model import probe
from metarm.model.reward_model import RewardModel, load_version
from metarm.runtime.cores import usable_cores
from metarm.runtime.priority import lower_thread_priority
from metarm.runtime.tracing import span
from metarm.store.calibration import IDENTITY, Calibration
from metarm.store.versions import VersionStore
from service.versions.live import LoadedVersion


class VersionLoader:
    """Loads versions in one thread. The first version loads with all cores; a later one loads while another
    serves, and takes one core."""

    def __init__(
        self,
        store: VersionStore,
        max_tokens: int | None,
        *,
        share_prompts: bool,
        reduced: bool,
        calibrated: bool,
        prepare: Callable[[RewardModel], None],
        on_load: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """`max_tokens` is the setting: a version that reads more is refused. `reduced`: score in bfloat16.
        `calibrated`: serve calibrated scores instead of raw rewards. `prepare` is called in the loader's
        thread with every model before it may serve, and may raise
        InvalidVersionError. `on_load` receives, in that thread, the seconds of every load that succeeded."""
        self._store = store
        self._max_tokens = max_tokens
        self._share_prompts = share_prompts
        self._reduced = reduced
        self._calibrated = calibrated
        self._prepare = prepare
        self._on_load = on_load
        self._first = True  # until one has been loaded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")

    async def load(self, name: str) -> LoadedVersion:
        """Load a version. Raises UnknownVersionError or InvalidVersionError, and nothing else."""
        # in the caller's context: log lines and spans of the load belong to its request
        load = partial(contextvars.copy_context().run, self._load, name)
        return await asyncio.get_running_loop().run_in_executor(self._thread, load)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self, name: str) -> LoadedVersion:
        torch.set_num_threads(usable_cores() if self._first else 1)  # this thread's own
        started = time.monotonic()
        try:
            with span("load", version=name):
                version = self._verified(name)
        except UnknownVersionError:
            raise
        except InvalidVersionError as error:
            if name in error.message:
                raise
            raise InvalidVersionError(f"{name}: {error.message}") from error
        except Exception as error:  # a broken file can make a library raise anything
            raise InvalidVersionError(f"{name} does not load: {type(error).__name__}: {error}") from error
        self._on_load(time.monotonic() - started)
        if self._first:
            lower_thread_priority()  # later versions load while one serves
            self._first = False
        return version

    @torch.inference_mode()
    def _verified(self, name: str) -> LoadedVersion:
        manifest = self._store.verify(name)
        calibration = Calibration.of(manifest)
        model = load_version(self._store.path(name), manifest, self._max_tokens, self._share_prompts)
        probe.check(model, manifest)  # in float32, as it was taken
        if self._reduced:
            model.reduce_precision()
        self._prepare(model)
        return LoadedVersion(name, model, calibration if self._calibrated else IDENTITY, manifest)
