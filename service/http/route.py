"""The class of every route: it checks the key before a body is read, and reads the body within its bounds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.http import bodies
from service.http.access import BEARER, require_admin, require_key
from service.server import Server

RIGHTS = (require_key, require_admin)


class Route(APIRoute):
    """FastAPI reads and parses a body before it calls a dependency. Here the dependencies that check the key
    are called first; FastAPI calls them again, as on routes without a body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        rights = [each.dependency for each in self.dependencies if each.dependency in RIGHTS]
        body = self.body_field

        async def handle_within_bounds(request: Request) -> Response:
            sent = bodies.announced(request.scope)
            if body is not None or sent is not None:
                server: Server = request.app.state.server
                for require in rights:
                    await require(server, await BEARER(request))
                if sent is not None:
                    sent.check_length(server.settings)
                if body is not None:
                    validate = partial(body.validate, loc=("body",))
                    required = body.field_info.is_required()
                    request = await bodies.read(request, sent, server.settings, validate, required=required)
            return await handle(request)

        return handle_within_bounds
