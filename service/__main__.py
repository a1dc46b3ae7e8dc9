"""`metarm serve`, or `python -m service`: settings → uvicorn."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from metarm.errors import EXIT_CONFIGURATION, ConfigurationError
from metarm.runtime import logs, process_environment
from metarm.runtime.addresses import bind
from metarm.runtime.closed_pipe import ends_quietly
from metarm.shared.connection import connect
from service.settings import ServiceSettings


@ends_quietly()
def main() -> None:
    process_environment.ensure_set()
    os.environ["HF_HUB_OFFLINE"] = "1"  # all versions come from the store
    settings = ServiceSettings.from_command_line("metarm serve", sys.argv[1:])
    logs.configure("service", settings)
    try:
        connect(settings.required_redis_url).close()  # it does not ask Redis
        sockets = bind(settings.host, settings.port)  # they refuse connections until the server has started
    except ConfigurationError as error:
        _refuse(error)

    with process_environment.gc_paused():
        from metarm.model.reward_model import quiet_transformers  # imports torch, after the environment is set
        from service.http.app import create_app
        from service.http.web_server import web_server

    quiet_transformers()
    server = web_server(create_app(settings), settings)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after the end
            server.run(sockets)
    except ConfigurationError as error:
        _refuse(error)
    if not server.started:
        sys.exit(1)


def _refuse(error: ConfigurationError) -> NoReturn:
    logs.refuse("metarm serve", error.message)
    sys.exit(EXIT_CONFIGURATION)


if __name__ == "__main__":
    main()
