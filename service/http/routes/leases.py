"""Leases: a client keeps a version in memory, on every server of one Redis."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import redis
from fastapi import APIRouter, Depends, Request

from metarm.errors import InvalidRequestError
from service.http.access import RunningServer, require_key
from service.http.disconnects import ClientPresent
from service.http.route import Route
from service.http.schemas.leases import LeaseReleased, LeaseRenewal, LeaseRequest, LeaseState
from service.server import Server
from service.versions.leases import Lease

router = APIRouter(route_class=Route, prefix="/leases", tags=["versions"], dependencies=[Depends(require_key)])


@router.post("", status_code=201, response_model=LeaseState)
async def create(body: LeaseRequest, request: Request, server: RunningServer) -> dict[str, Any]:
    """Keep a version in memory for a time; answers once this server has loaded it. Other servers begin to load
    it within about a second. A client that leaves while it waits for the load gets no lease."""
    _check(body.ttl_s, server)
    live = server.versions.live
    with ClientPresent(request, server.metrics):
        chosen = await live.get(body.named, None)
    with live.using(chosen):
        return _state(await server.versions.leases.create(chosen.name, body.ttl_s))


@router.get("", response_model=list[LeaseState])
async def leases(server: RunningServer) -> list[dict[str, Any]]:
    """The current leases, by their end."""
    with contextlib.suppress(redis.RedisError):  # without Redis, the leases that this server knows
        await server.versions.leases.follow()
    return [_state(lease) for lease in server.versions.leases.all()]


@router.post("/{lease}/renew", response_model=LeaseState)
async def renew(lease: str, body: LeaseRenewal, server: RunningServer) -> dict[str, Any]:
    """Extend a lease to `ttl_s` from now; 404 once it is over."""
    _check(body.ttl_s, server)
    return _state(await server.versions.leases.renew(lease, body.ttl_s))


@router.delete("/{lease}", response_model=LeaseReleased)
async def release(lease: str, server: RunningServer) -> dict[str, str]:
    """End a lease; 404 once it is over."""
    await server.versions.leases.release(lease)
    return {"lease": lease}


def _check(ttl_s: float, server: Server) -> None:
    longest = server.settings.max_lease_s
    if ttl_s > longest:
        raise InvalidRequestError(
            f"a lease lasts at most {longest:g} s (METARM_MAX_LEASE_S): ask for less, and renew it",
            limit=longest,
            setting="METARM_MAX_LEASE_S",
        )


def _state(lease: Lease) -> dict[str, Any]:
    return {"lease": lease.id, "version": lease.version, "expires": time.time() + lease.left_s}
