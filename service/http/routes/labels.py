"""Labels: other names for versions. `canary` may also take a share of the prompts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from metarm.errors import InvalidRequestError, UnknownLabelError, UnknownVersionError
from metarm.store.versions import Label
from service.http.access import RunningServer, require_admin, require_key
from service.http.route import Route
from service.http.schemas.fields import LabelName
from service.http.schemas.labels import LabelEntry, LabelRemoved, LabelRequest
from service.server import Server
from service.versions.canary import CANARY

router = APIRouter(route_class=Route, prefix="/labels", tags=["versions"])


@router.get("", response_model=list[LabelEntry], dependencies=[Depends(require_key)])
async def labels(server: RunningServer) -> list[dict[str, Any]]:
    """Every label, the version it names, and whether this server holds that version in memory."""
    return entries(server)


@router.put("/{label}", response_model=LabelEntry, dependencies=[Depends(require_admin)])
async def move(label: LabelName, body: LabelRequest, server: RunningServer) -> dict[str, Any]:
    """Create a label, or move it to a version, which is loaded first. 409 without such a version, with a list
    of this server's versions; a refused version answers the reason."""
    if label != CANARY and not (body.share is None and body.shadow is None):
        raise InvalidRequestError(
            f"share and shadow apply to the label {CANARY} only, not to {label}: omit them"
        )
    target = Label(body.version, body.share or 0.0, body.shadow or False)
    await server.versions.set_label(label, target)
    return _entry(label, target, server)


@router.delete("/{label}", response_model=LabelRemoved, dependencies=[Depends(require_admin)])
async def remove(label: LabelName, server: RunningServer) -> dict[str, str]:
    """Remove a label; the version that it named may be evicted."""
    try:
        await server.versions.remove_label(label)
    except UnknownVersionError as error:
        raise UnknownLabelError(error.message, **error.details) from error
    return {"label": label}


def entries(server: Server) -> list[dict[str, Any]]:
    """Every label, as this server last read them."""
    return [_entry(label, target, server) for label, target in sorted(server.versions.live.labels.items())]


def _entry(label: str, target: Label, server: Server) -> dict[str, Any]:
    return {
        "label": label,
        "version": target.version,
        "share": target.share,
        "shadow": target.shadow,
        "loaded": server.versions.live.loaded(target.version) is not None,
    }
