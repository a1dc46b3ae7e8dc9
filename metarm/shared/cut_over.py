"""The state of a cut-over in Redis: its version, its phase, and the state of each server that takes part.

    prepare ──▶ hold ──▶ go           one server alone: prepare ──▶ go
       └─────────┴─────▶ abort

One record, changed only by the commands of cut_over.lua. Each compares before it sets, so that the
coordinator and every server see the same order of events. docs/architecture.md describes the protocol.
The coordinator is metarm/shared/coordinator.py; a server's part is service/versions/membership.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import redis
from redis.client import PubSub

from metarm.shared.keys import CUT_OVER, CUT_OVER_NOTICES, SERVICE_PREFIX, SERVICES
from metarm.shared.scripts import load_script

Phase = Literal["prepare", "hold", "go", "abort"]
REFUSED = "refused: "  # precedes the reason in a server's state
KEEP_S = 86400
_SERVER_FIELD = "server:"  # precedes a server's id in the record, as in cut_over_record.lua


@dataclass(frozen=True, slots=True)
class CutOver:
    """`servers` maps each participant to its state: "" (none yet), ready, held, lost, or `refused: {reason}`.
    `running`: it has not ended, and its coordinator has renewed its lease."""

    id: str
    version: str
    coordinator: str
    phase: Phase
    reason: str
    running: bool
    servers: Mapping[str, str] = field(default_factory=dict)

    def servers_in(self, *states: str) -> list[str]:
        """The servers in one of `states`, sorted."""
        return sorted(server for server, state in self.servers.items() if state in states)

    def refusals(self) -> dict[str, str]:
        """The servers that refused the version, and their reasons."""
        return {
            server: state.removeprefix(REFUSED)
            for server, state in sorted(self.servers.items())
            if state.startswith(REFUSED)
        }


class CutOverBoard:
    """Thread-safe. Every method returns the record after it, None if there is none, and raises
    redis.RedisError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._script = load_script(client, "clock", "cut_over_record", "cut_over")

    def state(self) -> CutOver | None:
        return self._run("state")

    def begin(self, id_: str, version: str, coordinator: str, lease_ms: int) -> CutOver | None:
        """Start a cut-over of all live servers. Returns the running one if another id runs already, and
        None if no server is live. Idempotent for one id."""
        return self._run("begin", id_, version, coordinator, lease_ms, KEEP_S)

    def keep(self, id_: str, lease_ms: int) -> CutOver | None:
        """Renew the coordinator's lease for `lease_ms`, during prepare."""
        return self._run("keep", id_, lease_ms)

    def move(self, id_: str, before: Phase, to: Phase, reason: str = "", lease_ms: int = 0) -> CutOver | None:
        """Go from phase `before` to `to`; nothing changes if another process has already left `before`."""
        return self._run("move", id_, before, to, reason, lease_ms)

    def report(self, id_: str, phase: Phase, server: str, state: str) -> CutOver | None:
        """Set a server's state; nothing changes once the cut-over has left `phase`."""
        return self._run("report", id_, phase, server, state)

    def _run(self, command: str, *arguments: str | int) -> CutOver | None:
        names = [CUT_OVER, SERVICES, SERVICE_PREFIX, CUT_OVER_NOTICES]
        raw = cast("list[bytes] | None", self._script(names, [command, *arguments]))
        if not raw:
            return None
        fields = {name.decode(): value.decode() for name, value in zip(raw[::2], raw[1::2], strict=True)}
        return CutOver(
            id=fields["id"],
            version=fields["version"],
            coordinator=fields["coordinator"],
            phase=cast("Phase", fields["phase"]),
            reason=fields["reason"],
            running=fields["running"] == "1",
            servers={
                name.removeprefix(_SERVER_FIELD): state
                for name, state in fields.items()
                if name.startswith(_SERVER_FIELD)
            },
        )


class CutOverNotices:
    """Wakes a server when the record changes. Notices may be lost, so the record must also be polled.

    For one thread. Every method but `close` raises redis.RedisError when Redis does not answer.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._channel: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]

    def subscribe(self) -> None:
        """Subscribe to notices, unless this is done already."""
        if not self._channel.subscribed:
            self._channel.subscribe(CUT_OVER_NOTICES)

    def wait(self, timeout_s: float) -> None:
        """Return at the next notice, or after `timeout_s`."""
        self._channel.get_message(timeout=timeout_s)

    def close(self) -> None:
        self._channel.close()
