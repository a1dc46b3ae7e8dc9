"""Automatic retrains (METARM_RETRAIN=auto): a run starts when the current version's spread stays low."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Literal

import redis

from metarm.errors import JobConflictError, MetaRMError
from metarm.shared.jobs import Job, RetrainCooldown, public_view
from service.oversight.drift import Drift
from service.samples.retraining import Retraining
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.versions.live import LiveVersions

log = logging.getLogger(__name__)

State = Literal["off", "waiting", "no_reference", "steady", "cooling_down", "held_back", "triggered"]
SHOWN = 50  # latest jobs, searched for those that drift started


class AutoRetrain:
    """Lives on the event loop."""

    def __init__(
        self,
        rules: ServiceSettings,
        live: LiveVersions,
        drift: Drift,
        retraining: Retraining,
        cooldown: RetrainCooldown,
        metrics: Metrics,
    ) -> None:
        self._rules = rules
        self._live = live
        self._drift = drift
        self._retraining = retraining
        self._cooldown = cooldown
        self._metrics = metrics.drift
        self._state: State = "off" if rules.retrain == "manual" else "waiting"
        self._reason: str | None = None
        self._triggered: list[Job] = []

    async def decide(self) -> None:
        """Start a run if it is due. `view` has the reason if none was started."""
        if self._rules.retrain == "manual":
            return
        try:
            self._set_state(*await self._decide())
            self._triggered = await asyncio.to_thread(self._retraining.triggered, SHOWN)
        except MetaRMError as error:
            self._set_state("held_back", f"{error.code}: {error.message}")
        except redis.RedisError as error:
            self._set_state("held_back", f"Redis does not answer: {error}")

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
        trigger = self._trigger()
        if isinstance(trigger, tuple):
            return trigger
        left_s = await asyncio.to_thread(self._cooldown.left_s)
        if left_s:
            return "cooling_down", f"{left_s} s are left"
        await asyncio.to_thread(self._retraining.check)
        job = await asyncio.to_thread(self._start, trigger)
        if job is None:
            return "cooling_down", "another server has just started a run"
        self._metrics.auto_retrains.inc()
        log.info("drift starts %s: %s", job.id, trigger, extra={"job": job.id})
        return "triggered", job.id

    def _trigger(self) -> Mapping[str, Any] | tuple[State, str | None]:
        """The figures that call for a run; otherwise the state and its reason."""
        version, rules = self._live.current(), self._rules
        drift = self._drift.of(version.name, version.manifest)
        window, least = drift.window(), rules.retrain_over_groups
        if drift.reference.missing:
            return "no_reference", f"{version.name}: {drift.reference.missing}"
        ratio = drift.reference.spread_to_reference(window.spread)
        if window.groups < least or ratio is None or 2 * window.compared < least:
            few = f"{version.name} answered {window.groups} groups, {window.compared} of two or more responses"
            return "waiting", f"{few}; {least} are needed, half of them of two or more"
        if ratio >= rules.retrain_below:
            return "steady", f"the spread ratio is {ratio:.3f}; a run starts below {rules.retrain_below}"
        return {
            "by": "drift",
            "at": time.time(),
            "version": version.name,
            "below": rules.retrain_below,
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

    def _set_state(self, state: State, reason: str | None) -> None:
        if state != self._state:
            log.info("retrain auto: %s: %s", state, reason)
        self._state, self._reason = state, reason
