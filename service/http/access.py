"""What a request may reach: the running server, by a key for scoring and reading or one for administration.

The checks run on the event loop: FastAPI runs plain functions in threads, two handovers a request.
"""

from __future__ import annotations

import secrets
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from metarm.errors import ForbiddenError, UnauthorizedError
from service.server import Server

Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


async def _server(request: Request) -> Server:
    return cast("Server", request.app.state.server)


RunningServer = Annotated[Server, Depends(_server)]


async def require_key(server: RunningServer, sent: Bearer) -> None:
    """Any known key, where any is set. Raises UnauthorizedError."""
    keys = [*server.settings.score_keys, *server.settings.admin_keys]
    if keys and not _among(sent, keys):
        raise UnauthorizedError("send a valid API key: 'Authorization: Bearer KEY'")


async def require_admin(server: RunningServer, sent: Bearer) -> None:
    """An admin key, where any key is set. Raises UnauthorizedError or ForbiddenError."""
    await require_key(server, sent)
    guarded = server.settings.score_keys or server.settings.admin_keys
    if guarded and not _among(sent, server.settings.admin_keys):
        raise ForbiddenError("this key may score, not change what is served: an admin key is needed")


def _among(sent: HTTPAuthorizationCredentials | None, keys: list[SecretStr]) -> bool:
    given = sent.credentials.encode() if sent else b""
    # every key is compared, so that the time taken does not reveal which one matched
    matches = [secrets.compare_digest(given, key.get_secret_value().encode()) for key in keys]
    return any(matches)
