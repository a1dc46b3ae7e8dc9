"""Who may do what: API keys for scoring and reading, admin keys for changing what is served.

The checks run on the event loop: FastAPI would run plain functions in threads, two handovers a request.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from metarm.errors import ForbiddenError, UnauthorizedError
from service.parts import Wired

Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


async def require_key(parts: Wired, sent: Bearer) -> None:
    """Any known key; none is asked for where none is set. Raises UnauthorizedError."""
    keys = [*parts.settings.score_keys, *parts.settings.admin_keys]
    if keys and not _among(sent, keys):
        raise UnauthorizedError("send a valid API key: 'Authorization: Bearer KEY'")


async def require_admin(parts: Wired, sent: Bearer) -> None:
    """An admin key, where any key is set. Raises UnauthorizedError or ForbiddenError."""
    await require_key(parts, sent)
    guarded = parts.settings.score_keys or parts.settings.admin_keys
    if guarded and not _among(sent, parts.settings.admin_keys):
        raise ForbiddenError("this key may score, not change what is served: an admin key is needed")


def _among(sent: HTTPAuthorizationCredentials | None, keys: list[SecretStr]) -> bool:
    given = sent.credentials.encode() if sent else b""
    # every key is compared, so that the time taken says nothing of which one matched
    matches = [secrets.compare_digest(given, key.get_secret_value().encode()) for key in keys]
    return any(matches)
