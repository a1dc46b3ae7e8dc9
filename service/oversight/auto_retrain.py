"""Automatic retrains (METARM_RETRAIN=auto): a run starts when the current version's spread has fallen.

The fall is from the version's own first window of groups to its newest: a low first window is no fall. A run
that did not help lengthens the pause before the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Literal

import redis

from metarm.errors import JobConflictError, MetaRMError
from metarm.shared.first_windows import FirstWindows
from metarm.shared.jobs import Job, RetrainCooldown, public_view
from metarm.store.versions import VersionStore
from service.oversight.drift import Drift, Reference
from service.oversight.run_effects import Effect, effect_of
from service.samples.retraining import Retraining
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.versions.live import LiveVersions

log = logging.getLogger(__name__)

State = Literal[
    "off",
    "waiting",
    "no_reference",
    "low_from_start",
    "steady",
    "cooling_down",
    "held_back",
    "triggered",
]
SHOWN = 50  # latest jobs, searched for those that drift started


class AutoRetrain:
    """Lives on the event loop."""

    def __init__(
        self,
        rules: ServiceSettings,
        store: VersionStore,
        live: LiveVersions,
        drift: Drift,
        retraining: Retraining,
        cooldown: RetrainCooldown,
        first_windows: FirstWindows,
        metrics: Metrics,
    ) -> None:
        self._rules = rules
        self._store = store
        self._live = live
        self._drift = drift
        self._retraining = retraining
        self._cooldown = cooldown
        self._first_windows = first_windows
        self._metrics = metrics.drift
        self._state: State = "off" if rules.retrain == "manual" else "waiting"
        self._reason: str | None = None
        self._triggered: list[Job] = []

    async def decide(self) -> None:
        """Start a run if it is due. `view` has the reason if none was started. In manual mode this only keeps
        the first windows, which count if the mode changes."""
        try:
            found = await self._decide()
        except MetaRMError as error:
            found = "held_back", f"{error.code}: {error.message}"
        except redis.RedisError as error:
            found = "held_back", f"Redis does not answer: {error}"
        if self._rules.retrain == "auto":
            self._set_state(*found)

    def view(self) -> dict[str, Any]:
        """For GET /drift."""
        return {
            "retrain": self._rules.retrain,
            "state": self._state,
            "reason": self._reason,
            "triggers": [public_view(job) for job in self._triggered],
        }

    async def _decide(self) -> tuple[State, str | None]:
        """Raises the error that prevents a run."""
        first = await self._first_ratio()
        if self._rules.retrain == "manual":
            return "off", None
        self._triggered = await asyncio.to_thread(self._retraining.triggered, SHOWN)
        if self._triggered:
            not_yet = await asyncio.to_thread(self._judge, self._triggered[0])
            if not_yet:
                return "waiting", not_yet
        trigger = self._trigger(first)
        if isinstance(trigger, tuple):
            return trigger
        left_s = await asyncio.to_thread(self._cooldown.left_s)
        if left_s:
            return "cooling_down", await asyncio.to_thread(self._pause, left_s)
        await asyncio.to_thread(self._retraining.check)
        job = await asyncio.to_thread(self._start, trigger)
        if job is None:
            return "cooling_down", "another server has just started a run"
        self._metrics.auto_retrains.inc()
        self._triggered = [job, *self._triggered]
        log.info("drift starts %s: %s", job.id, trigger, extra={"job": job.id})
        return "triggered", job.id

    def _trigger(self, first: float | None) -> Mapping[str, Any] | tuple[State, str | None]:
        """The figures that call for a run; otherwise the state and its reason."""
        current, rules = self._live.current(), self._rules
        version, drift = current.name, self._drift.of(current.name, current.manifest)
        window, least = drift.window(), rules.retrain_over_groups
        if drift.reference.missing:
            return "no_reference", f"{version}: {drift.reference.missing}"
        ratio = drift.reference.spread_to_reference(window.spread)
        if not drift.complete(window) or ratio is None or first is None:
            few = f"{version} answered {window.groups} groups, {window.compared} of two or more distinct"
            return "waiting", f"{few} responses; {least} are needed, half of them of two or more"
        limit = rules.retrain_below * first
        now = f"the spread ratio is {ratio:.3f}; a run starts below {limit:.3f}, {rules.retrain_below} of"
        if ratio >= limit and first < rules.retrain_below:
            low = f"{version} began at {first:.3f} of its spread on held-out preferences, which is no fall"
            return "low_from_start", f"low from the start: {low}: {now} that"
        if ratio >= limit:
            return "steady", f"{now} the {first:.3f} that {version} began at"
        return {
            "by": "drift",
            "at": time.time(),
            "version": version,
            "below": rules.retrain_below,
            "first_spread_to_reference": first,
            "reference_spread": drift.reference.spread,
            **window.view(drift.reference),
        }

    def _start(self, trigger: Mapping[str, Any]) -> Job | None:
        if not self._cooldown.begin(trigger["version"]):
            return None
        try:
            return self._retraining.start({}, trigger)
        except JobConflictError:
            self._cooldown.cancel()
            raise

    async def _first_ratio(self) -> float | None:
        """The current version's over its first window, once this server or another has measured it."""
        version = self._live.current()
        reference, seen = Reference.of(version.manifest), self._drift.versions().get(version.name)
        if reference.spread is None:
            return None
        spread = seen.first.spread if seen and seen.complete(seen.first) else None
        measured = reference.spread_to_reference(spread)
        return await asyncio.to_thread(self._first_windows.ratio, version.name, reference.spread, measured)

    def _judge(self, job: Job) -> str | None:
        """Record whether the last run that drift started helped, once that is known. Returns why to wait, if
        this server does not serve its version yet."""
        effect = effect_of(job, self._candidate_ratio, self._store.withdrawn)
        if effect is not None:
            self._record(job, effect)
        elif job.status == "published" and self._live.current_name == (job.trigger or {}).get("version"):
            return f"{job.candidate} is published, and this server does not serve it yet"
        return None

    def _record(self, job: Job, effect: Effect) -> None:
        version = str((job.trigger or {}).get("version"))
        unhelpful = self._cooldown.judge(job, version, effect.helped, effect.reason)
        if unhelpful is not None:
            wait_s = self._cooldown.wait_s(unhelpful)
            outcome = "helped" if effect.helped else "did not help"
            text = "%s, started by drift, %s: %s; from its start to the next run: %d s"
            log.info(text, job.id, outcome, effect.reason, wait_s, extra={"job": job.id})

    def _pause(self, left_s: int) -> str:
        judged = self._cooldown.judged()
        if not judged.unhelpful:
            return f"{left_s} s are left"
        wait_s, runs = self._cooldown.wait_s(judged.unhelpful), judged.unhelpful
        did_not = "the last run" if runs == 1 else f"{runs} runs in a row"
        return (
            f"{left_s} s are left of {wait_s}, longer than METARM_RETRAIN_COOLDOWN_S because {did_not} did not "
            f"help ({judged.job}: {judged.reason})"
        )

    def _candidate_ratio(self, version: str) -> float | None:
        """The ratio of a published version over its first window, if any server has measured it."""
        spread = Reference.of(self._store.manifest(version)).spread
        return None if spread is None else self._first_windows.ratio(version, spread)

    def _set_state(self, state: State, reason: str | None) -> None:
        if state != self._state:
            log.info("retrain auto: %s: %s", state, reason)
        self._state, self._reason = state, reason
