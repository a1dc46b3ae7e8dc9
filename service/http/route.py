"""The class of every route: it checks the key before a body is read, and reads the body within its bounds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Set
from functools import partial
from itertools import islice
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Query
from fastapi.routing import APIRoute

from service.http import bodies
from service.http.access import BEARER, require_admin, require_key
from service.http.schemas.fields import MAX_UNKNOWN
from service.server import Server

RIGHTS = (require_key, require_admin)
MAX_NAME = 100  # characters of a query parameter's name that are echoed


class Route(APIRoute):
    """FastAPI reads and parses a body before it calls a dependency. Here the dependencies that check the key
    are called first; FastAPI calls them again, as on routes without a body. Query parameters that the route
    does not know are refused, as unknown fields of a body are, except on the health paths: probes send some."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        rights = [each.dependency for each in self.dependencies if each.dependency in RIGHTS]
        body = self.body_field
        params = get_flat_params(self.dependant)
        known = {each.alias for each in params if isinstance(each.field_info, Query)}
        takes_any = "health" in self.tags

        async def handle_within_bounds(request: Request) -> Response:
            sent = bodies.announced(request.scope)
            query = request.scope["query_string"] and not takes_any
            if body is not None or sent is not None or query:
                server: Server = request.app.state.server
                for require in rights:
                    await require(server, await BEARER(request))
                if query:
                    _refuse_unknown(request, known)
                if sent is not None:
                    sent.check_length(server.settings)
                if body is not None:
                    validate = partial(body.validate, loc=("body",))
                    required = body.field_info.is_required()
                    request = await bodies.read(request, sent, server.settings, validate, required=required)
            return await handle(request)

        return handle_within_bounds


def _refuse_unknown(request: Request, known: Set[str]) -> None:
    """Raises RequestValidationError, which names the first few query parameters that the route ignores."""
    unknown = islice((name for name in request.query_params if name not in known), MAX_UNKNOWN)
    errors = [
        {"type": "extra_forbidden", "loc": ("query", name[:MAX_NAME]), "msg": "Unknown query parameter"}
        for name in unknown
    ]
    if errors:
        raise RequestValidationError(errors)
