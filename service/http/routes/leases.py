"""Leases: a job keeps the version it is pinned to in memory, on every server of one Redis."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Depends

from metarm.errors import InvalidRequestError
from service.http.access import require_key
from service.http.schemas.leases import LeaseReleased, LeaseRenewal, LeaseRequest, LeaseState
from service.parts import Parts, Wired
from service.versions.leases import Lease

router = APIRouter(prefix="/leases", tags=["versions"], dependencies=[Depends(require_key)])


@router.post("", status_code=201, response_model=LeaseState)
async def create(body: LeaseRequest, parts: Wired) -> dict[str, Any]:
    """Keep a version in memory for a while; answers once it is loaded here. Other servers load it within
    about a second and the time that takes."""
    _check(body.ttl_s, parts)
    return _state(await parts.leases.create(body.named, body.ttl_s))


@router.get("", response_model=list[LeaseState])
async def leases(parts: Wired) -> list[dict[str, Any]]:
    """The leases that hold, the first to end first."""
    await parts.leases.follow()
    return [_state(lease) for lease in parts.leases.all()]


@router.post("/{lease}/renew", response_model=LeaseState)
async def renew(lease: str, body: LeaseRenewal, parts: Wired) -> dict[str, Any]:
    """Let a lease last `ttl_s` from now; 404 once it is over."""
    _check(body.ttl_s, parts)
    return _state(await parts.leases.renew(lease, body.ttl_s))


@router.delete("/{lease}", response_model=LeaseReleased)
async def release(lease: str, parts: Wired) -> dict[str, str]:
    """End a lease; 404 once it is over."""
    await parts.leases.release(lease)
    return {"lease": lease}


def _check(ttl_s: float, parts: Parts) -> None:
    longest = parts.settings.max_lease_s
    if ttl_s > longest:
        raise InvalidRequestError(f"a lease lasts {longest:g} s at most without being renewed", limit=longest)


def _state(lease: Lease) -> dict[str, Any]:
    return {"lease": lease.id, "version": lease.version, "expires": time.time() + lease.left_s}
