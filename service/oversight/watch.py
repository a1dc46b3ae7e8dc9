"""The watch over a promoted version: its parent also scores a share of its groups, and it is rolled back if it
is worse.

A promotion moves the pointer from a version to its child. Any other move, such as an operator's return to an
older version, is not watched. A version whose watch has ended is not watched again: an operator may activate a
version that was rolled back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import redis

from metarm.errors import MetaRMError
from metarm.runtime.loops import LoopHealth
from metarm.shared.watches import Outcome, WatchBoard, WatchRecord
from metarm.store.versions import VersionStore
from service.oversight.drift import Comparison, Drift, Reference
from service.oversight.traffic import ShadowPlan
from service.oversight.watched import Watched, breaches
from service.settings import ServiceSettings
from service.telemetry.metrics import Metrics
from service.versions.live import LiveVersions, LoadedVersion

log = logging.getLogger(__name__)

SHARE_EVERY_S = 2.0
SHOWN = 20  # records
RETRY_S = 10.0  # after a rollback that failed
PATIENCE = 10  # windows, after which a version that cannot be compared stays unjudged


class Watch:
    """Lives on the event loop."""

    def __init__(
        self,
        rules: ServiceSettings,
        store: VersionStore,
        live: LiveVersions,
        drift: Drift,
        board: WatchBoard,
        activate: Callable[[str, str], Awaitable[object]],
        metrics: Metrics,
        loop: LoopHealth,
        *,
        retry_s: float = RETRY_S,
        share_every_s: float = SHARE_EVERY_S,
    ) -> None:
        """`activate` makes a version current, for a reason; `loop` receives the outcome of sharing records."""
        self._rules = rules
        self._store = store
        self._live = live
        self._drift = drift
        self._board = board
        self._activate = activate
        self._metrics = metrics.drift
        self._records: dict[str, WatchRecord] = {}
        self._unsaved: dict[str, WatchRecord] = {}
        self._next_read = 0.0  # monotonic seconds
        self._was_read = False
        self._sharing = loop
        self._retry_s = retry_s
        self._share_every_s = share_every_s
        self._serving: str | None = None
        self._watched: Watched | None = None

    async def judge(self) -> None:
        """Follow the current version; judge the one that is watched."""
        await self._share_records()
        if not self._was_read:
            return  # it is not yet known whether a watch was under way
        current = self._live.current_name
        if current != self._serving:
            await self._follow_current(current, self._serving)
            self._serving = current  # not before: after an error the next turn follows again
        if self._watched:
            await self._judge_watched(self._watched)

    def plan(self) -> ShadowPlan | None:
        watched = self._watched
        return ShadowPlan(watched.version, watched.parent, watched.share) if watched else None

    def compared(self, version: LoadedVersion, other: LoadedVersion, group: Comparison) -> None:
        """Add a group that `version` answered and `other` scored a second time."""
        watched = self._watched
        if watched and (watched.version, watched.parent) == (version.name, other.name):
            watched.compared = watched.compared.plus(group)

    def rollbacks(self) -> list[dict[str, Any]]:
        """The last rollbacks, by any server; the newest first."""
        return [asdict(record) for record in self._newest() if record.outcome == "rolled_back"][:SHOWN]

    def view(self) -> dict[str, Any]:
        """For GET /drift: the current watch, if any, and the outcomes of the last ones."""
        watched = self._watched
        ended = [asdict(record) for record in self._newest() if record.outcome != "watching"][:SHOWN]
        under_way = watched and {
            "version": watched.version,
            "parent": watched.parent,
            "began": watched.began,
            "share": watched.share,
            **watched.figures(),
            "rollback_failed": watched.failed,
        }
        return {"watching": under_way, "ended": ended}

    def _newest(self) -> list[WatchRecord]:
        return sorted(self._records.values(), key=lambda record: record.at, reverse=True)

    async def _follow_current(self, current: str | None, before: str | None) -> None:
        """Begin or end a watch after the current version has changed from `before`."""
        if self._watched and self._watched.version != current:
            await self._end("left", f"{current} serves now")
        if current is None or not self._rules.watch_groups:
            return
        parent = (await asyncio.to_thread(self._store.manifest, current)).get("parent")
        record = self._records.get(current)
        if parent is None or (record and record.decided):
            return
        promoted = parent == before
        resumed = before is None and record is not None and record.outcome == "watching"
        if promoted or resumed:
            await self._begin(current, parent)

    async def _begin(self, version: str, parent: str) -> None:
        try:
            await self._live.hold("watch", [parent])
            manifest = await asyncio.to_thread(self._store.manifest, parent)
        except MetaRMError as error:
            log.warning("%s is not watched: %s", version, error.message)
            self._remember(WatchRecord(version, parent, "unjudged", time.time(), error.message))
            return
        own = (await self._live.load(version)).manifest
        drift, reference = self._drift.of(version, own), Reference.of(manifest)
        forced = (own.get("verdict") or {}).get("forced", False)
        share = self._rules.watch_forced_share if forced else self._rules.watch_share
        groups, non_finite = drift.total.groups, drift.non_finite
        self._watched = Watched(version, parent, share, drift, reference, groups, non_finite)
        missing = drift.reference.missing or reference.missing
        log.info("watching %s against %s%s", version, parent, f"; no spread: {missing}" if missing else "")
        self._remember(WatchRecord(version, parent, "watching", self._watched.began))

    async def _judge_watched(self, watched: Watched) -> None:
        rules, record = self._rules, self._records.get(watched.version)
        if record and record.decided:  # by another server; the pointer follows
            await self._end(None, record.outcome)
            return
        reasons = breaches(watched, rules)
        if reasons:
            await self._roll_back(watched, reasons)
        elif watched.groups >= rules.watch_groups and watched.compared.groups >= rules.watch_min_groups:
            await self._end("passed", f"nothing found in {watched.groups} groups")
        elif watched.groups >= PATIENCE * rules.watch_groups:
            few = (
                f"{watched.compared.groups} of {watched.groups} groups could be compared with {watched.parent}"
            )
            await self._end("unjudged", f"{few}; {rules.watch_min_groups} are needed")

    async def _roll_back(self, watched: Watched, reasons: Sequence[str]) -> None:
        if time.monotonic() < watched.retry_at:
            return
        reason = f"watch over {watched.version}: {'; '.join(reasons)}"
        try:
            if await asyncio.to_thread(self._store.current) != watched.version:
                return  # it is no longer current: the next turn follows
            await self._activate(watched.parent, reason)
        except (MetaRMError, redis.RedisError, OSError) as error:
            watched.failed, watched.retry_at = str(error), time.monotonic() + self._retry_s
            log.error("the rollback to %s failed (%s): %s", watched.parent, reason, error)
            return
        self._metrics.rollbacks.labels(watched.version).inc()
        await self._end("rolled_back", "; ".join(reasons))

    async def _end(self, outcome: Outcome | None, reason: str) -> None:
        """End the watch. `outcome` is None if it is already recorded."""
        watched = self._watched
        assert watched is not None  # noqa: S101 (called during a watch)
        self._watched = None
        level = logging.INFO if outcome in (None, "passed", "left") else logging.WARNING
        names = watched.version, watched.parent
        log.log(level, "watch over %s, parent %s: %s: %s", *names, outcome, reason, extra={"version": names[0]})
        if outcome:
            self._metrics.watches.labels(outcome).inc()
            self._remember(WatchRecord(*names, outcome, time.time(), reason, watched.figures()))
        await self._live.hold("watch", [])

    def _remember(self, record: WatchRecord) -> None:
        self._records[record.version] = self._unsaved[record.version] = record
        self._next_read = 0.0

    async def _share_records(self) -> None:
        """Save new records and read those of other servers, every SHARE_EVERY_S. The watch goes on while Redis
        does not answer."""
        if time.monotonic() < self._next_read:
            return
        unsaved = list(self._unsaved.values())
        with self._sharing.turn():
            records = await asyncio.to_thread(self._exchange, unsaved)
            for record in unsaved:
                if self._unsaved.get(record.version) is record:
                    del self._unsaved[record.version]
            self._records, self._was_read = {**records, **self._unsaved}, True
        self._next_read = time.monotonic() + self._share_every_s

    def _exchange(self, unsaved: Sequence[WatchRecord]) -> dict[str, WatchRecord]:
        for record in unsaved:
            self._board.save(record)
        return self._board.read()
