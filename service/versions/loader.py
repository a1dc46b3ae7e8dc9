"""Brings a version from disk, off the hot path: verify, load, compare on the probe, warm."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from metarm.errors import InvalidVersionError, UnknownVersionError
from metarm.model import probe
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel, all_finite, load_model
from metarm.runtime.cores import usable_cores
from metarm.runtime.tracing import span
from metarm.store.calibration import IDENTITY, Calibration
from metarm.store.versions import VersionStore
from service.scoring.plan import ForwardPlan
from service.scoring.priority import stand_back
from service.versions.live_model import LoadedVersion

WARM_PROMPT = "Which of the two trains is faster?"
WARM_SENTENCE = "The second one, by about ten kilometres an hour. "
WARM_LENGTHS = (1, 12, 3, 6, 2, 24, 4, 8)  # sentences of a response


class VersionLoader:
    """One thread of its own. The first version is loaded with all cores; those that come while it serves
    take one, so that scoring keeps the rest."""

    def __init__(
        self,
        store: VersionStore,
        max_tokens: int,
        *,
        share_prompts: bool,
        reduced: bool,
        calibrated: bool,
        prepare: Callable[[RewardModel], ForwardPlan],
        refused: Callable[[str, str], None],
        took: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """`reduced`: score in bfloat16. `calibrated`: serve what each version's calibration makes of its
        rewards. `prepare` is called, in that thread, with every model before it may serve. `refused` is
        told the name of a version that fails its checks, and why. `took` is told the seconds of every load
        that succeeded, in that thread."""
        self._store = store
        self._max_tokens = max_tokens
        self._share_prompts = share_prompts
        self._reduced = reduced
        self._calibrated = calibrated
        self._prepare = prepare
        self._refused = refused
        self._took = took
        self._first = True  # until one has been loaded
        self._warmed: set[Hashable] = set()  # the kinds of network that a whole slice has run through
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")

    async def load(self, name: str) -> LoadedVersion:
        """Raises UnknownVersionError, or InvalidVersionError with what is wrong: nothing else."""
        try:
            # with the context: what is said and traced of the load belongs to whoever asked for it
            load = partial(contextvars.copy_context().run, self._load, name)
            return await asyncio.get_running_loop().run_in_executor(self._thread, load)
        except InvalidVersionError as error:
            self._refused(name, error.message)
            raise

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self, name: str) -> LoadedVersion:
        torch.set_num_threads(usable_cores() if self._first else 1)  # this thread's own
        started = time.monotonic()
        try:
            with span("load", version=name):
                version = self._checked(name)
        except UnknownVersionError:
            raise
        except InvalidVersionError as error:
            if name in error.message:
                raise
            raise InvalidVersionError(f"{name}: {error.message}") from error
        except Exception as error:  # a file can make a library raise anything, and must not end who follows
            raise InvalidVersionError(f"{name} does not load: {type(error).__name__}: {error}") from error
        self._took(time.monotonic() - started)
        if self._first:
            stand_back()  # what comes now loads beside a version that serves
            self._first = False
        return version

    @torch.inference_mode()
    def _checked(self, name: str) -> LoadedVersion:
        manifest = self._store.verify(name)
        calibration = Calibration.of(manifest)
        limit = (manifest.get("encoding") or {}).get("max_tokens", self._max_tokens)
        model = load_model(self._store.path(name), min(limit, self._max_tokens), self._share_prompts)
        probe.check(model, manifest)  # in float32, as it was taken
        if self._reduced:
            model.reduce_precision()
        self._warm(name, model, self._prepare(model))
        return LoadedVersion(name, model, calibration if self._calibrated else IDENTITY, manifest)

    def _warm(self, name: str, model: RewardModel, plan: ForwardPlan) -> None:
        """Run a lone text and one slice of common lengths, as traffic will. Of a network whose like has been
        warmed the text alone: what a slice warms, kernels chosen by shape and memory, is shared, and a slice
        takes more of a core than all else that a load does."""
        kind = _kind(model)
        scores = model.scores(list(_slice(model, 1))).tolist()
        if kind not in self._warmed:
            scores += model.scores(list(_slice(model, plan.slice_tokens)), plan.batch_tokens).tolist()
            self._warmed.add(kind)
        if not all_finite(scores):
            raise InvalidVersionError(f"{name} answers scores that are not finite numbers")


def _kind(model: RewardModel) -> Hashable:
    """Equal for networks that run the same operations on the same shapes."""
    network = model.network
    shapes = tuple((name, tuple(weight.shape)) for name, weight in network.named_parameters())
    return type(network), network.dtype, shapes


def _slice(model: RewardModel, tokens: int) -> Iterator[Encoded]:
    """Responses of several lengths to a few prompts, of `tokens` tokens or a little more."""
    for number in itertools.count():
        responses = [WARM_SENTENCE * length for length in WARM_LENGTHS]
        for sample in model.encoder.encode([(f"{number}. {WARM_PROMPT}", responses)])[0]:
            yield sample
            tokens -= len(sample.ids)
            if tokens <= 0:
                return
