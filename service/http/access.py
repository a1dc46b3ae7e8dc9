"""Access to the running server: one kind of API key scores and reads, the other also administers.

The checks are coroutines: FastAPI would run plain functions in threads, which costs two handovers a request.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Literal, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from metarm.errors import ForbiddenError, UnauthorizedError
from service.server import Server

BEARER = HTTPBearer(auto_error=False)
Rights = Literal["score", "admin"]
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


async def _server(request: Request) -> Server:
    return cast("Server", request.app.state.server)


RunningServer = Annotated[Server, Depends(_server)]


async def require_key(server: RunningServer, sent: Bearer) -> Rights:
    """Require a known key if any key is set, and return its rights. Raises UnauthorizedError."""
    score, admin = server.settings.score_keys, server.settings.admin_keys
    if (score or admin) and not _is_among(sent, [*score, *admin]):
        found = "no API key was sent" if sent is None else "the API key is none of this server's"
        raise UnauthorizedError(f"{found}: send 'Authorization: Bearer KEY'")
    return "admin" if _is_among(sent, admin) or not (score or admin) else "score"


async def require_admin(server: RunningServer, sent: Bearer) -> None:
    """Require an admin key if any key is set. Raises UnauthorizedError or ForbiddenError."""
    if await require_key(server, sent) != "admin":
        needed = "is needed" if server.settings.admin_keys else "is needed, and METARM_ADMIN_KEYS names none"
        raise ForbiddenError(f"this key may only score and read: an admin key {needed}")


def _is_among(sent: HTTPAuthorizationCredentials | None, keys: list[SecretStr]) -> bool:
    given = sent.credentials.encode() if sent else b""
    # every key is compared, so that the time taken does not reveal which one matched
    matches = [secrets.compare_digest(given, key.get_secret_value().encode()) for key in keys]
    return any(matches)
