"""Labels: other names for versions. `canary` may besides take a share of the prompts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool

from metarm.errors import InvalidRequestError, UnknownLabelError, UnknownVersionError
from metarm.store.versions import Label
from service.http.access import require_admin, require_key
from service.http.schemas.fields import LabelName
from service.http.schemas.labels import LabelEntry, LabelRemoved, LabelRequest
from service.parts import Parts, Wired
from service.versions.canary import CANARY

router = APIRouter(prefix="/labels", tags=["versions"])


@router.get("", response_model=list[LabelEntry], dependencies=[Depends(require_key)])
async def labels(parts: Wired) -> list[dict[str, Any]]:
    """Every label, what it names, and whether this server holds that in memory."""
    return entries(parts)


@router.put("/{label}", response_model=LabelEntry, dependencies=[Depends(require_admin)])
async def move(label: LabelName, body: LabelRequest, parts: Wired) -> dict[str, Any]:
    """Make a label or move it to a version, which is loaded first: 409, naming what is here, where there is
    none; where it is refused, its reason."""
    if label != CANARY and not (body.share is None and body.shadow is None):
        raise InvalidRequestError(f"only {CANARY} has a share and a shadow, not {label}")
    target = Label(body.version, body.share or 0.0, body.shadow or False)
    version = await parts.live.load(body.version)
    with parts.live.using(version):  # so that it stays until the label holds it
        await run_in_threadpool(parts.writes.set_label, label, target)
        parts.labels.follow()
    return _entry(label, target, parts)


@router.delete("/{label}", response_model=LabelRemoved, dependencies=[Depends(require_admin)])
async def remove(label: LabelName, parts: Wired) -> dict[str, str]:
    """Remove a label; the version it named may leave memory."""
    try:
        await run_in_threadpool(parts.writes.remove_label, label)
    except UnknownVersionError as error:
        raise UnknownLabelError(error.message, **error.details) from error
    parts.labels.follow()
    return {"label": label}


def entries(parts: Parts) -> list[dict[str, Any]]:
    """Every label as this server saw them last."""
    return [_entry(label, target, parts) for label, target in sorted(parts.live.labels.items())]


def _entry(label: str, target: Label, parts: Parts) -> dict[str, Any]:
    return {
        "label": label,
        "version": target.version,
        "share": target.share,
        "shadow": target.shadow,
        "loaded": parts.live.loaded(target.version) is not None,
    }
