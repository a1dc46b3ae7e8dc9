"""GET /versions and its manifests; POST /versions/{v}/activate rolls back or forward."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import redis
from fastapi import APIRouter, Depends

from metarm.errors import InvalidVersionError
from metarm.versions import version_number
from service.access import require_admin, require_key
from service.parts import Parts, Wired
from service.schemas import Activated, ActivateRequest, VersionList

router = APIRouter(prefix="/versions", tags=["versions"])


@router.get("", response_model=VersionList, dependencies=[Depends(require_key)])
def versions(parts: Wired) -> dict[str, Any]:
    """Every version that was published or rejected, which is current, and which this server serves."""
    current, rejected = parts.store.current(), set(parts.store.rejected())
    names = sorted([*parts.store.names(), *rejected], key=version_number)
    refused = parts.swapper.refused
    return {
        "current": current,
        "serving": parts.live.current_name,
        **_servers(parts),
        "refused": {"name": refused.name, "reason": refused.reason} if refused else None,
        "versions": [_entry(name, name == current, name in rejected, parts) for name in names],
    }


@router.get("/{version}", response_model=dict[str, Any], dependencies=[Depends(require_key)])
def manifest(version: str, parts: Wired) -> dict[str, Any]:
    """The manifest: parent, job, method, metrics, verdict, digests, time of making."""
    return parts.store.manifest(version)


@router.post("/{version}/activate", response_model=Activated, dependencies=[Depends(require_admin)])
async def activate(version: str, parts: Wired, body: ActivateRequest | None = None) -> dict[str, Any]:
    """Make a published version the current one, on all live servers together; answers once this one scores
    with it. 409 names the servers that could not take it: then all stay on the version they had."""
    together = body.together if body else True
    done = await parts.activator.activate(version, "asked for over HTTP", together=together)
    return {"current": done.current, "serving": done.serving}


def _servers(parts: Parts) -> dict[str, Any]:
    try:
        return {"servers": [asdict(record) for record in parts.fleet.live()]}
    except redis.RedisError as error:
        return {"servers": None, "servers_unknown": f"Redis does not answer: {error}"}


def _entry(name: str, current: bool, rejected: bool, parts: Parts) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "current": current,
        "serving": name == parts.live.current_name,
        "loaded": name in parts.live.loaded_names,
    }
    try:
        manifest = parts.store.manifest(name)
    except InvalidVersionError as error:
        return {**entry, "status": "unreadable", "reasons": [error.message]}
    verdict = manifest.get("verdict") or {}
    return {
        **entry,
        "status": "rejected" if rejected else "published",
        **{key: manifest.get(key) for key in ("parent", "job", "method", "created")},
        "reasons": verdict.get("reasons", []) if rejected else [],
    }
