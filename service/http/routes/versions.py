"""GET /versions and its manifests; POST /versions/{v}/activate rolls back or forward."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import redis
from fastapi import APIRouter, Depends
from pydantic import ValidationError

from metarm.errors import InvalidVersionError
from metarm.store.versions import Status
from service.http.access import RunningServer, require_admin, require_key
from service.http.route import Route
from service.http.schemas.versions import Activated, ActivateRequest, VersionCurve, VersionEntry, VersionList
from service.server import Server

router = APIRouter(route_class=Route, prefix="/versions", tags=["versions"])
LINEAGE = (  # with the files that it names, enough to reproduce the version
    "parent",
    "job",
    "method",
    "created",
    "source",
    "samples",
    "preferences",
    "settings",
    "code_version",
    "calibration",
    "verdict",
)


@router.get("", response_model=VersionList, dependencies=[Depends(require_key)])
def versions(server: RunningServer) -> dict[str, Any]:
    """Every version with its lineage; which one is current, and which one this server serves."""
    current = server.versions.store.current()
    refused = server.versions.swapper.refused
    return {
        "current": current,
        "serving": server.versions.live.current_name,
        **_servers(server),
        "refused": {"name": refused.name, "reason": refused.reason} if refused else None,
        "refusals": [asdict(refusal) for refusal in server.versions.refusals.all()],
        "rollbacks": server.oversight.watch.rollbacks(),
        "versions": [
            _entry(n, n == current, status, server) for n, status in server.versions.store.statuses().items()
        ],
    }


@router.get("/{version}", response_model=dict[str, Any], dependencies=[Depends(require_key)])
def manifest(version: str, server: RunningServer) -> dict[str, Any]:
    """The manifest: parent, job, method, metrics, verdict, digests, creation time."""
    return server.versions.store.manifest(version)


@router.get("/{version}/curve", response_model=VersionCurve, dependencies=[Depends(require_key)])
def curve(version: str, server: RunningServer) -> dict[str, Any]:
    """Losses and held-out accuracies of the run that made a published version."""
    found = server.versions.store.curve(version) or {}
    lists = {name: found.get(name, []) for name in ("loss", "difference", "held_out_accuracy")}
    return {"version": version, **lists}


@router.post("/{version}/activate", response_model=Activated, dependencies=[Depends(require_admin)])
async def activate(version: str, server: RunningServer, body: ActivateRequest | None = None) -> dict[str, Any]:
    """Make a published version the current one, on all live servers together; answers once this server scores
    with it. 409 names the servers that could not load it: all servers then stay on the version they had."""
    together = body.together if body else True
    done = await server.versions.activate(version, "requested over HTTP", together=together)
    return {"current": done.current, "serving": done.serving}


def _servers(server: Server) -> dict[str, Any]:
    try:
        return {"servers": [asdict(record) for record in server.versions.fleet.live()]}
    except redis.RedisError as error:
        return {"servers": None, "servers_unknown": f"Redis does not answer: {error}"}


def _entry(name: str, current: bool, status: Status, server: Server) -> VersionEntry:
    entry: dict[str, Any] = {
        "name": name,
        "current": current,
        "serving": name == server.versions.live.current_name,
        "loaded": name in server.versions.live.loaded_names,
    }
    try:
        made_from = {key: server.versions.store.manifest(name).get(key) for key in LINEAGE}
        found = VersionEntry(**entry, status=status, **made_from)
    except InvalidVersionError as error:
        return VersionEntry(**entry, status="unreadable", reasons=[error.message])
    except ValidationError as error:
        invalid = ", ".join(str(each["loc"][0]) for each in error.errors())
        return VersionEntry(**entry, status="unreadable", reasons=[f"its manifest has an invalid {invalid}"])
    found.reasons = (found.verdict or {}).get("reasons", [])
    return found
