"""The web server around the application: uvicorn, configured here for `metarm serve` and the tests."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from metarm.errors import ConfigurationError
from metarm.runtime.addresses import url_of
from service.http.connections import Connection
from service.settings import ServiceSettings
from service.telemetry.request_log import RequestLog

log = logging.getLogger(__name__)

GRACE_S = 30  # for requests in flight, at the end


class WebServer(uvicorn.Server):
    """Runs on sockets that are bound already, so that an address that cannot be used shows before the start."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises ConfigurationError if another process has begun to listen at the address meanwhile."""
        await super().startup(sockets)
        listening = [found for found in sockets or () if found.fileno() != -1]
        for found in listening:
            log.info("listening on %s", url_of(*found.getsockname()[:2]))
        if not listening:  # uvloop closes a socket that cannot listen, and raises nothing
            self.started = False
            await self.lifespan.shutdown()
            raise ConfigurationError("cannot listen (Address already in use): set METARM_HOST and METARM_PORT")


def web_server(app: FastAPI, settings: ServiceSettings) -> WebServer:
    """A server that is not started: `run` it on the sockets of metarm.runtime.addresses.bind. It logs through
    the root logger's handlers."""
    connection = partial(Connection, header_timeout_s=settings.header_timeout_s, log=RequestLog())
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", connection),  # called for each connection
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=cast("int", settings.keep_alive_s),  # any number of seconds
        timeout_graceful_shutdown=GRACE_S,
    )
    return WebServer(config)
