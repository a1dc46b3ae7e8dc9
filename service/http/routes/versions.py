"""GET /versions and its manifests; POST /versions/{v}/activate rolls back or forward."""

from __future__ import annotations

import contextlib
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

import redis
from fastapi import APIRouter, Depends, Query
from pydantic import ValidationError

from metarm.errors import InvalidVersionError
from metarm.store.evaluations import evaluations_of
from metarm.store.held_out import HeldOut, held_out_accuracy
from metarm.store.versions import Status, version_number
from service.http.access import RunningServer, require_admin, require_key
from service.http.route import Route
from service.http.schemas.fields import VersionName
from service.http.schemas.versions import (
    Activated,
    ActivateRequest,
    HeldOutPairs,
    VersionCurve,
    VersionEntry,
    VersionList,
)
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
def versions(
    server: RunningServer,
    count: Annotated[int, Query(ge=1, le=1000, description="The newest versions to list.")] = 100,
    before: Annotated[VersionName | None, Query(description="List only versions older than this one.")] = None,
) -> dict[str, Any]:
    """The newest versions with their lineage, and always the one that is current and the one that this server
    serves."""
    current, withdrawn = None, list[str]()
    with suppress(InvalidVersionError):  # `refused` has the reason
        current = server.versions.store.current()
    with suppress(InvalidVersionError):  # the list is of use without it
        withdrawn = server.versions.store.withdrawn()
    serving, statuses = server.versions.live.current_name, server.versions.store.statuses()
    older = [name for name in statuses if before is None or version_number(name) < version_number(before)]
    always = {current, serving} if before is None else set()
    listed = [name for place, name in enumerate(older) if place >= len(older) - count or name in always]
    refused = server.versions.swapper.refused
    return {
        "current": current,
        "serving": serving,
        **_servers(server),
        "refused": {"name": refused.name, "reason": refused.reason} if refused else None,
        "refusals": [asdict(refusal) for refusal in server.versions.refusals.all()],
        "rollbacks": server.oversight.watch.rollbacks(),
        "versions": [
            _entry(name, statuses[name], server, current=name == current, rolled_back=name in withdrawn)
            for name in listed
        ],
        "total": len(statuses),
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


def _entry(name: str, status: Status, server: Server, **of_pointer: bool) -> VersionEntry:
    entry: dict[str, Any] = {
        "name": name,
        **of_pointer,
        "serving": name == server.versions.live.current_name,
        "loaded": name in server.versions.live.loaded_names,
    }
    try:
        manifest = server.versions.store.manifest(name)
        found = VersionEntry(**entry, status=status, **{key: manifest.get(key) for key in LINEAGE})
    except InvalidVersionError as error:
        return VersionEntry(**entry, status="unreadable", reasons=[error.message])
    except ValidationError as error:
        invalid = ", ".join(str(each["loc"][0]) for each in error.errors())
        return VersionEntry(**entry, status="unreadable", reasons=[f"its manifest has an invalid {invalid}"])
    found.reasons = (found.verdict or {}).get("reasons", [])
    found.evaluations = evaluations_of(server.versions.store.root, name)[::-1]
    held_out = HeldOut.of(manifest)
    if held_out is not None:
        found.held_out = HeldOutPairs(**held_out._asdict())
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # such figures are unknown
        found.held_out_accuracy = held_out_accuracy(manifest)
    return found
